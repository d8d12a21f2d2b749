"""ms-swift plugin of the tests: takes the placeholder guard out of the hook, and nothing else."""

from swift_thyme.sampling import tokens

tokens.PLACEHOLDER_TOKENS = ()
