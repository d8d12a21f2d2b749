"""What the HTTP servers share: tokens, sizes of bodies, and clients that leave."""
