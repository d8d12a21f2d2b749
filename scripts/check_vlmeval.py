"""Evaluates a running ``thyme serve`` with VLMEvalKit; called by scripts/check_vlmeval.sh.

usage: python scripts/check_vlmeval.py URL DATASET WORK_DIR

DATASET.tsv lies in the folder that LMUData names. Prints VLMEvalKit's accuracy as JSON.
"""

import json
import sys
from pathlib import Path


def main() -> None:
    url, dataset_name, work_dir = sys.argv[1:]
    from vlmeval.dataset.image_mcq import CustomMCQDataset, HRBenchDataset
    from vlmeval.inference import infer_data_job
    from vlmeval.smp import get_pred_file_path, load

    from swift_thyme.evaluation.vlmeval import ThymeAPI

    class Plates(CustomMCQDataset):
        """A local file; one with all rotations is scored as VLMEvalKit scores HRBench."""

        def evaluate(self, eval_file, **judge):
            if "cycle_category" in self.data:
                return HRBenchDataset.evaluate(self, eval_file, **judge)
            return super().evaluate(eval_file, **judge)

    dataset = Plates(dataset_name)
    model = ThymeAPI(url, question_only=True, verbose=False, retry=2)
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    infer_data_job(model, work_dir, "Thyme", dataset, api_nproc=16)
    file = get_pred_file_path(work_dir, "Thyme", dataset_name)
    scores = dataset.evaluate(file, model="exact_matching", nproc=1)
    rows = load(file)
    print(
        "RESULT"
        + json.dumps(
            {
                "scores": json.loads(scores.to_json(orient="records")),
                "predictions": dict(
                    zip(map(str, rows["index"]), map(str, rows["prediction"]), strict=True)
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
