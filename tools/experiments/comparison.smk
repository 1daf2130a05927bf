# Stages of every recipe that compares a searched encoder with others: trainings that all take as long
# as the slowest at equal epochs, and the table. The including Snakefile sets TRAIN_STAGE, TIME_STAGE and
# RESULTS_STAGE, TOOLKIT, SCRIPTS (the package of its local/), REFERENCE (Kaldi text of the test set) and
# DECODED (the output of decoding a run). Its rule `train` handles the CONDITIONS.
SYSTEMS = config["systems"].split()


def at_equal_time(system, pattern):
    """Return an input function: the file of a system's training at equal time.

    There is none where the training at equal epochs took as long already, as the slowest one's
    did; what decides that is known when the plan was made.
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
        at_equal_time(system, pattern) for system in SYSTEMS
    ]


CONDITIONS = [
    condition
    for condition, number, targets in (
        ("epochs", TRAIN_STAGE, expand("costs/train/epochs/{system}.json", system=SYSTEMS)),
        ("time", TIME_STAGE, [at_equal_time(name, "costs/train/{}.json") for name in SYSTEMS]),
    )
    if stage(number, *targets)
]

if stage(TIME_STAGE):

    checkpoint plan:
        input:
            expand("costs/train/epochs/{name}.json", name=SYSTEMS),
            expand("conf/epochs/{name}.yaml", name=SYSTEMS),
        output: "conf/time/{system}.yaml"
        params: systems=SYSTEMS
        log: "log/plan/{system}.log"
        shell:
            "python -m tools.experiments.equal_time --toolkit {TOOLKIT} --expdir ."
            " --systems {params.systems} --system {wildcards.system} --output {output}"
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
