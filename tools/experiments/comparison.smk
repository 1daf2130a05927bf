# Stages of every recipe that compares a searched encoder with others: trainings that take as long
# as the searched one's, and the table. The including Snakefile sets TRAIN_STAGE, TIME_STAGE and
# RESULTS_STAGE, TOOLKIT, SCRIPTS (the package of its local/), REFERENCE (Kaldi text of the test set) and
# DECODED (the output of decoding a run). Its rule `train` handles the CONDITIONS.
SYSTEMS = config["systems"].split()
SEARCHED, *OTHERS = SYSTEMS


def at_equal_time(system, pattern):
    """Return an input function: the file of a system's training at equal time.

    There is none where the training at equal epochs took as long already; what decides that is
    known when the plan was made.
    """

    def files(wildcards):
        if stage(TIME_STAGE):
            checkpoints.plan.get(system=system)
        run = run_of(Path(), "time", system)
        return [pattern.format(run)] if run.startswith("time/") else []

    return files


def of_all_runs(pattern):
    """Return the files, or the functions that give them, of all trainings."""
    return [pattern.format(f"epochs/{system}") for system in SYSTEMS] + [
        at_equal_time(system, pattern) for system in OTHERS
    ]


CONDITIONS = [
    condition
    for condition, number, targets in (
        ("epochs", TRAIN_STAGE, expand("costs/train/epochs/{system}.json", system=SYSTEMS)),
        ("time", TIME_STAGE, [at_equal_time(name, "costs/train/{}.json") for name in OTHERS]),
    )
    if stage(number, *targets)
]

if stage(TIME_STAGE):

    checkpoint plan:
        input:
            "costs/train/epochs/searched.json",
            "costs/train/epochs/{system}.json",
            reference="conf/epochs/searched.yaml",
            config="conf/epochs/{system}.yaml",
        output: "conf/time/{system}.yaml"
        log: "log/plan/{system}.log"
        shell:
            "python -m tools.experiments.equal_time --toolkit {TOOLKIT} --expdir ."
            " --reference train/epochs/searched --reference-config {input.reference}"
            " --job train/epochs/{wildcards.system} --config {input.config} --output {output}"
            " --same conf/time/{wildcards.system}.same > {log} 2>&1"


if stage(RESULTS_STAGE, "results/RESULTS.md", "results/results.json"):

    rule results:
        input:
            of_all_runs(DECODED),
            of_all_runs("costs/train/{}.json"),
            "measure.json",
            reference=REFERENCE,
            corpus=f"{CORPUS}/corpus.json",
        output:
            "results/RESULTS.md",
            "results/results.json",
        params:
            systems=SYSTEMS,
            seed=config["seed"],
            decoding=config.get("inference_args", ""),
            command=config["command"],
        log: "log/results.log"
        shell:
            "python -m {SCRIPTS}.collect --expdir . --systems {params.systems}"
            " --reference {input.reference:q} --corpus {input.corpus:q} --seed {params.seed}"
            " --decoding={params.decoding:q} --command {params.command:q} --output results"
            " > {log:q} 2>&1"
