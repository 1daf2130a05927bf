#!/usr/bin/env bash
# Does a search find better genotypes than chance? Every strategy against random genotypes of the
# same space, each trained from scratch for the same steps. See --help.
set -euo pipefail

# --- what to run
stage=1
stop_stage=6
nj=2                     # one-thread jobs side by side
seed=1                   # of the corpus
expdir=exp               # searches, trainings, results
datadir=data             # lhotse, ESPnet and NeMo data
downloads=downloads      # the synthetic corpus
tiny=false               # a few utterances and steps: does everything run?

# --- sizes
n_train=1000             # utterances; those of ../espnet
n_dev=80
n_test=160
speakers="40 4 8"        # train, dev, test; all different
# conf/NAME.yaml; of those there also pdarts_edges, darts_first_edges, darts_second_edges
strategies="pdarts darts_first darts_second stnas stnas_edges darts_first_drawn"
seeds=3                  # searches of each
draws=8                  # random genotypes
space=asr_revised
search_utterances=320    # of the training data, for a search
search_opts=             # more options of nas-encoder search
parameters=100000        # of each encoder that is trained, within 2 %
steps=400                # of each training

help() {
    cat <<TEXT
usage: run.sh [--stage N] [--stop_stage N] [--nj N] [--seeds N] [--draws N] [--tiny true] ...

Several searches of each strategy against random genotypes of the same space, on synthetic
speech. All genotypes are trained from scratch for the same steps, at equal size.

  1  corpus      tools/synth_corpus.py, laid out as LibriSpeech
  2  data        nas-encoder data prepare
  3  search      nas-encoder search, --seeds times for each of --strategies
  4  draw        --draws random genotypes
  5  training    every genotype from scratch
  6  results     EXPDIR/results: RESULTS.md with means, deviations and rank tests, results.json,
                 results.png

Names of strategies: as published, a cell's edges are chosen by their operations; with _edges
they have parameters of their own ('edges: learned'), with _drawn each step draws two for a node
('edges: drawn').

What is done already is left out, what was stopped goes on; a job whose command or inputs
changed is done again. Logs: EXPDIR/log.

options and their defaults:
  --stage $stage --stop_stage $stop_stage --nj $nj --seed $seed --tiny $tiny
  --expdir $expdir --datadir $datadir --downloads $downloads
  --n_train $n_train --n_dev $n_dev --n_test $n_test --speakers "$speakers"
  --strategies "$strategies" --seeds $seeds
  --draws $draws --space $space --search_utterances $search_utterances --search_opts "$search_opts"
  --parameters $parameters --steps $steps
TEXT
}

cd "$(dirname "${BASH_SOURCE[0]}")"
. ../local/path.sh
. ../local/recipe.sh
given=("$@")
numbers="stage stop_stage nj seed n_train n_dev n_test seeds draws search_utterances parameters steps"
parse_options "$numbers expdir datadir downloads tiny speakers strategies space search_opts" \
    "$numbers" "$@"

if [ "$tiny" = true ]; then
    n_train=24 n_dev=4 n_test=4 speakers="2 2 2" strategies="darts_first_drawn stnas_edges"
    seeds=1 draws=2 search_utterances=16 steps=4 parameters=60000
    search_opts="--set trainer.score_utterances=2 --set stages.0.epochs=1 --set stages.0.warmup_epochs=0"
fi
for strategy in $strategies; do
    if ! [ -f "conf/$strategy.yaml" ]; then
        echo "run.sh: --strategies: there is no conf/$strategy.yaml" >&2
        exit 2
    fi
done

begin_jobs strategies
espnet=$data/espnet

# 1 and 2
corpus_jobs "$espnet/train/text,$espnet/dev/text,$espnet/test/text"

# 3: the searches
for strategy in $strategies; do
    for number in $(seq "$seeds"); do
        folder=$expdir/search/$strategy/$number
        # shellcheck disable=SC2086
        job 3 "search/$strategy/$number" --after data \
            --inputs "conf/$strategy.yaml,$espnet/train/text,$espnet/dev/text" \
            --outputs "$folder/genotype.yaml" --fresh "$folder" -- \
            nas-encoder search --config "conf/$strategy.yaml" --train "$espnet/train" \
            --valid "$espnet/dev" --output "$folder" --seed "$number" --resume \
            --set "train_utterances=$search_utterances" $search_opts
    done
done

# 4: random genotypes
for number in $(seq "$draws"); do
    job 4 "draw/$number" --outputs "$expdir/random/$number.yaml" -- \
        python -m recipes.mini.espnet.local.sample_genotype --space "$space" --seed "$number" \
        --output "$expdir/random/$number.yaml"
done

# 5: training
trained= recorded=
train() { # name, genotype, job that it waits for
    job 5 "train/$1" --after "data,$3" --inputs "conf/train.yaml,$2,$espnet/train/text" \
        --outputs "$expdir/train/$1.json" -- \
        python -m "$local.train" --config conf/train.yaml --genotype "$2" \
        --train "$espnet/train" --test "$espnet/test" --parameters "$parameters" \
        --steps "$steps" --seed "${1##*/}" --output "$expdir/train/$1.json"
    trained+=,train/$1
    recorded+=,$expdir/train/$1.json
}
for number in $(seq "$draws"); do
    train "random/$number" "$expdir/random/$number.yaml" "draw/$number"
done
for strategy in $strategies; do
    for number in $(seq "$seeds"); do
        train "$strategy/$number" "$expdir/search/$strategy/$number/genotype.yaml" \
            "search/$strategy/$number"
    done
done

# 6: results
# shellcheck disable=SC2086
job 6 results --after "${trained#,}" --inputs "${recorded#,},$corpus/corpus.json" \
    --outputs "$expdir/results/RESULTS.md,$expdir/results/results.json" -- \
    python -m "$local.collect" --expdir "$expdir" --strategies $strategies --seeds "$seeds" \
    --draws "$draws" --corpus "$corpus/corpus.json" --output "$expdir/results" \
    --command "recipes/mini/strategies/run.sh${given[*]:+ ${given[*]}}"

run_all_jobs 6
