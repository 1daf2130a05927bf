#!/usr/bin/env bash
# The demo in NeMo: synthetic speech -> training of four encoders -> table of results. See --help.
set -euo pipefail

# --- what to run
stage=1
stop_stage=7
nj=2                     # one-thread jobs side by side
seed=1
expdir=exp               # models, logs, results
datadir=data             # lhotse, ESPnet and NeMo data
downloads=downloads      # the synthetic corpus
tiny=false               # a few utterances and one epoch: does everything run?

# --- sizes: the corpus is that of ../espnet
n_train=1000             # utterances
n_dev=80
n_test=160
speakers="40 4 8"        # train, dev, test; all different
genotype=auto            # what ../espnet has found here, or else synth_pdarts; or zoo name or file
parameters=260000        # of each encoder, within 2 %
systems="searched conformer fastconformer dfsmn_san"   # the searched one and any others of these
epochs=8                 # of the trainings at equal epochs
repeats=9                # timed passes for the real-time factor

help() {
    cat <<TEXT
usage: run.sh [--stage N] [--stop_stage N] [--nj N] [--seed N] [--expdir DIR] [--tiny true] ...

A searched encoder against NeMo's Conformer and FastConformer and against DFSMN-SAN, at equal
size: character CTC trained by NeMo at equal epochs and at equal time, on synthetic speech.

  1  corpus      tools/synth_corpus.py, laid out as LibriSpeech; the same as in ../espnet
  2  data        nas-encoder data prepare: lhotse, ESPnet folders, NeMo manifests
  3  configs     NeMo configs, widths at which all encoders have equal size
  4  training    NeMo's EncDecCTCModel, equal epochs
  5  training    the same, as long as the searched encoder took
  6  evaluation  NeMo's transcribe on the test set; sizes and real-time factors
  7  results     EXPDIR/results: RESULTS.md, results.json, results.png, results.svg

What is done already is left out, what was stopped goes on; a job whose command or inputs
changed is done again. Jobs of several stages run side by side where none waits for the other.
Logs: EXPDIR/log. Trained models: EXPDIR/models/{epochs,time}/SYSTEM/checkpoints/SYSTEM.nemo.

options and their defaults:
  --stage $stage --stop_stage $stop_stage --nj $nj --seed $seed --tiny $tiny
  --expdir $expdir --datadir $datadir --downloads $downloads
  --n_train $n_train --n_dev $n_dev --n_test $n_test --speakers "$speakers"
  --systems "$systems"
  --genotype $genotype --parameters $parameters --epochs $epochs --repeats $repeats
TEXT
}

cd "$(dirname "${BASH_SOURCE[0]}")"
. ../local/path.sh
. ../local/recipe.sh
given=("$@")
numbers="stage stop_stage nj seed n_train n_dev n_test parameters epochs repeats"
parse_options "$numbers expdir datadir downloads tiny speakers genotype systems" "$numbers" "$@"
split_systems "conformer fastconformer dfsmn_san"

if [ "$tiny" = true ]; then
    n_train=40 n_dev=6 n_test=8 speakers="4 2 2" epochs=1 repeats=1
fi
if [ "$genotype" = auto ]; then
    genotype=../espnet/exp/search/genotype.yaml
    [ -f "$genotype" ] || genotype=synth_pdarts
fi

begin_jobs nemo
nemo=$data/nemo

# 1 and 2: the corpus, and data for lhotse, ESPnet and NeMo
reference=$data/espnet/test/text
corpus_jobs "$nemo/train.json,$nemo/dev.json,$nemo/test.json,$reference"

# 3: configs of equal size
templates=()
inputs=conf/common.yaml,$nemo/train.json
outputs=$expdir/conf/epochs/ctc.json
for system in $systems; do
    template=conf/${system/searched/nas}.yaml
    templates+=("$system=$template")
    inputs+=,$template
    outputs+=,$expdir/conf/epochs/$system.yaml
done
if [ -f "$genotype" ]; then
    inputs+=,$genotype
fi
job 3 configs --after data --inputs "$inputs" --outputs "$outputs" -- \
    python -m "$local.make_config" "${templates[@]}" --common conf/common.yaml \
    --genotype "$genotype" --parameters "$parameters" --epochs "$epochs" \
    --train "$nemo/train.json" --valid "$nemo/dev.json" --seed "$seed" \
    --output "$expdir/conf/epochs"

# 4 and 5: training
case $expdir in
    /*) configs=$expdir/conf ;;
    *) configs=$PWD/$expdir/conf ;; # Hydra takes other paths relative to the script
esac
train() { # STAGE, run, jobs that it waits for, options of job
    local number=$1 run=$2 waits=$3
    local folder=$expdir/models/$run name=${run#*/}
    shift 3
    job "$number" "train/$run" --after "$waits" \
        --inputs "$expdir/conf/$run.yaml,$nemo/train.json,$nemo/dev.json" \
        --outputs "$folder/checkpoints/$name.nemo" --fresh "$folder" "$@" -- \
        python -m "$local.train" --config-path "$configs/${run%/*}" --config-name "$name" \
        "exp_manager.explicit_log_dir=$folder" "exp_manager.name=$name"
}
trained=
recorded= # the markers change when a model is trained again
for system in $systems; do
    train 4 "epochs/$system" configs
    trained+=,train/epochs/$system
    recorded+=,$expdir/.jobs/train/epochs/$system.json
done
for system in $others; do
    plan_jobs 5 "$system"
    train 5 "time/$system" "plan/$system" --unless "$expdir/conf/time/$system.same"
    trained+=,train/time/$system
    recorded+=,$expdir/.jobs/train/time/$system.json
done

# 6: evaluation. It takes all cores, so that nothing else disturbs the clock.
decoded=
for system in $systems; do
    decoded+=,$expdir/decode/epochs/$system/text
done
# shellcheck disable=SC2086
job 6 evaluate --after "${trained#,}" --cores "$nj" --inputs "$nemo/test.json$recorded" \
    --outputs "$expdir/measure.json$decoded" -- \
    python -m "$local.evaluate" --expdir "$expdir" --systems $systems --test "$nemo/test.json" \
    --repeats "$repeats" --seed "$seed" --output "$expdir/measure.json"

# 7: results
result_jobs 7 "evaluate$trained" "$recorded" "$reference" \
    --decoding "" --command "recipes/mini/nemo/run.sh${given[*]:+ ${given[*]}}"

run_all_jobs 7
