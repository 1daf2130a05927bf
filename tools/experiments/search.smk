# Searches on the corpus, each an encoder beside the others. The including Snakefile sets SEARCH_STAGE,
# SEARCH_TRAIN and SEARCH_VALID (folders of ESPnet's) and SEARCH_TOKENS (a list or a model). What was
# found elsewhere is trained likewise: --genotype.
from tools.experiments.searched import given, searches

SEARCHES = searches(
    config["search"], config["search_config"], config["search_args"], RECIPE
)
GENOTYPES = given(config["genotype"], RECIPE, {name: own.source for name, own in SEARCHES.items()})

if stage(SEARCH_STAGE, *(f"costs/search/{name.removeprefix('searched_')}.json" for name in SEARCHES)):

    rule search:
        input:
            lambda w: SEARCHES[f"searched_{w.name}"].file,
            f"{SEARCH_TRAIN}/wav.scp",
            SEARCH_TOKENS,
            train=f"{SEARCH_TRAIN}/text",
            valid=f"{SEARCH_VALID}/text",
        output:
            "costs/search/{name}.json",
            genotype=update("search/{name}/genotype.yaml"),
        params:
            config=lambda w: SEARCHES[f"searched_{w.name}"].config,
            seeds=lambda w: SEARCHES[f"searched_{w.name}"].seed_options(config["seed"]),
            train=SEARCH_TRAIN,
            valid=SEARCH_VALID,
            tokens=SEARCH_TOKENS,
            cpu="" if config["ngpu"] else "--set trainer.accelerator=cpu",
            options=lambda w: SEARCHES[f"searched_{w.name}"].options,
        priority: 1 # trainings wait for it
        shell:
            "{RESUMABLE} search/{wildcards.name} --folder search/{wildcards.name}"
            " --outputs {output.genotype} --inputs {input:q} --"
            " nas-encoder search --config {params.config:q} --train {params.train:q}"
            " --valid {params.valid:q} --tokens {params.tokens:q} --output search/{wildcards.name}"
            " {params.seeds} --resume {params.cpu} {params.options}"
