"""The configurations for recipes of ESPnet3 (``egs3``), from the same table.

ESPnet3 infers a recipe from the real path of its configuration, behind all links. So ours lie in
folders like those of ESPnet: .../egs3/CORPUS/SYSTEM/conf/tuning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.espnet_recipes.configs import Choice, choices, header, table, train_config
from tools.recipe_tables import entry

MODEL = (
    *("encoder", "encoder_conf", "decoder", "decoder_conf", "model_conf"),
    *("frontend", "frontend_conf", "specaug", "specaug_conf"),
)


def recipe(corpus: str) -> str | None:
    """Return the name of a corpus's recipe of ESPnet3, None if it has none."""
    found: str | None = table()["corpora"][corpus].get("egs3", {}).get("recipe")
    return found


def folder(corpus: str) -> Path:
    """Return the folder of a corpus's configurations, from the root of this repository."""
    return Path("recipes", corpus, "espnet", "egs3", str(recipe(corpus)), "conf", "tuning")


def training_config(choice: Choice) -> dict[str, Any]:
    """Return the configuration that ``run.py --training_config`` reads, for a hybrid.

    A batch has as many frames as with the recipe's 80 bins.
    """
    corpus, old = table()["corpora"][choice.corpus], train_config(choice)
    about, whole = corpus["egs3"], corpus["config"]
    bins, parts = old["frontend_conf"]["n_mels"], whole["batch_bins"] // old["batch_bins"]
    (_, criterion, mode) = old["best_model_criterion"][0]
    return {
        "task": "espnet3.systems.esp2_asr.task.ASRTask",
        # Not the recipe's: of another number of bins, they would be taken for those of this one.
        "stats_dir": f"${{recipe_dir}}/exp/stats_{bins}_bins",
        **about["own"],
        "model": {
            "vocab_size": "${tokenizer.vocab_size}",
            "token_list": "${tokenizer.save_path}/tokens.txt",
            **{key: old[key] for key in MODEL if key in old},
            "normalize": "global_mvn",
            "normalize_conf": {"stats_file": "${stats_dir}/train/feats_stats.npz"},
        },
        "optimizer": {"_target_": "torch.optim.Adam", **old["optim_conf"]},
        "scheduler": {
            "_target_": "espnet2.schedulers.warmup_lr.WarmupLR",
            **old["scheduler_conf"],
        },
        "best_model_criterion": [[f"valid/{criterion}", old["keep_nbest_models"], mode]],
        "dataloader": {
            "train": {
                "iter_factory": {
                    "num_workers": old["num_workers"],
                    "batches": {
                        "type": "numel",
                        "batch_bins": about["batch_bins"] * bins // 80 // parts,
                    },
                }
            }
        },
        "trainer": {
            "accumulate_grad_batches": old["accum_grad"],
            "gradient_clip_val": old["grad_clip"],
            "max_epochs": about["max_epochs"],
            "precision": "bf16-mixed" if old["use_amp"] else "32-true",
        },
    }


def files(corpus: str) -> dict[Path, str]:
    """Return the texts of all configurations by their places in this repository.

    They are for our encoders as hybrids, which the recipe decodes and scores with its own files.
    """
    name = recipe(corpus)
    if name is None:
        return {}
    found = {}
    for choice in choices(corpus):
        if choice.loss != "hybrid" or not table()["encoders"][choice.encoder].get("short", False):
            continue
        path = folder(corpus) / f"training_{choice.name}.yaml"
        usage = [
            f"In egs3/{name} of ESPnet, after recipes/install.sh:",
            f"    python run.py --stages all --training_config conf/tuning/{path.name} \\",
            "        --inference_config conf/inference.yaml --metrics_config conf/metrics.yaml",
        ]
        lines = header(choice, usage)
        for key, value in training_config(choice).items():
            lines += ["", *entry(key, value)]
        found[path] = "\n".join(lines) + "\n"
    return found
