# Sourced by the run.sh of each toolkit: its options, how it declares jobs, and the jobs that are
# the same in all of them. A run.sh sets the defaults, defines `help`, and then calls
#
#   parse_options "names of all options" "those that are whole numbers" "$@"
#   split_systems "systems that may stand beside the searched one"
#   begin_jobs TOOLKIT
#   job ... (as often as needed; corpus_jobs, plan_jobs and result_jobs declare some)
#   run_all_jobs
#
# What is written here is read by run.sh, and the other way round.
# shellcheck shell=bash disable=SC2034,SC2154

# --name value, as in ESPnet's and Kaldi's recipes
parse_options() {
    local known=" $1 " numbers=$2 name
    shift 2
    while [ $# -gt 0 ]; do
        case $1 in
            --help | -h)
                help
                exit 0
                ;;
            --*)
                name=${1#--}
                name=${name//-/_}
                case "$known" in
                    *" $name "*) ;;
                    *)
                        echo "run.sh: unknown option $1; --help lists them" >&2
                        exit 2
                        ;;
                esac
                if [ $# -lt 2 ]; then
                    echo "run.sh: $1 needs a value" >&2
                    exit 2
                fi
                printf -v "$name" '%s' "$2"
                shift 2
                ;;
            *)
                echo "run.sh: unexpected argument '$1'; --help shows how it is used" >&2
                exit 2
                ;;
        esac
    done
    for name in $numbers; do
        if ! [[ ${!name} =~ ^[0-9]+$ ]]; then
            echo "run.sh: --$name: must be a whole number, got '${!name}'" >&2
            exit 2
        fi
    done
}

# Sets `others`: the systems but the searched one.
split_systems() {
    local known=$1 system
    case "$systems " in
        "searched "?*) others=${systems#searched } ;;
        *)
            echo "run.sh: --systems: must be searched and then at least one other, got '$systems'" >&2
            exit 2
            ;;
    esac
    for system in $others; do
        case " $known " in
            *" $system "*) ;;
            *)
                echo "run.sh: --systems: must be of '$known', got '$system'" >&2
                exit 2
                ;;
        esac
    done
}

# The caller is in the recipe's folder and has sourced path.sh.
begin_jobs() {
    local needed
    toolkit=$1
    local=recipes.mini.$toolkit.local
    for needed in python nas-encoder; do
        if ! command -v $needed >/dev/null; then
            echo "run.sh: $needed is not on the PATH; 'make setup' in $ROOT installs everything" >&2
            exit 1
        fi
    done
    mkdir -p "$expdir/log"
    jobs=$expdir/jobs.txt
    : >"$jobs"
    # Another seed or size is another corpus, beside this one.
    corpus=$downloads/synthetic_${n_train}_${n_dev}_${n_test}_seed$seed
    data=$datadir/${corpus##*/}
}

# job STAGE NAME [--after A,B] [--inputs F,F] [--outputs F,F] [--fresh DIR] [--unless F] -- COMMAND
job() {
    local number=$1 name=$2
    shift 2
    if [ "$stage" -le "$number" ] && [ "$stop_stage" -ge "$number" ]; then
        { printf '%q ' --name "$name" --stage "$number" "$@" && echo; } >>"$jobs"
    fi
}

# Stages 1 and 2: the corpus, and what lhotse, ESPnet and NeMo read. OUTPUTS: comma-separated
# files below $data that the toolkit needs.
corpus_jobs() {
    local outputs=$1
    # shellcheck disable=SC2086  # options of several words
    job 1 corpus --cores "$nj" --outputs "$corpus/corpus.json" -- \
        python "$ROOT/tools/synth_corpus.py" --layout librispeech --output "$corpus" \
        --train "$n_train" --dev "$n_dev" --test "$n_test" --speakers $speakers \
        --seed "$seed" --jobs "$nj"
    job 2 data --after corpus --inputs "$corpus/corpus.json" --outputs "$outputs" -- \
        nas-encoder data prepare librispeech "$corpus/LibriSpeech" "$data" \
        --train train-clean-100 --dev dev-clean --test test-clean
}

# plan_jobs STAGE SYSTEM: as many steps as take the time that the searched encoder took.
plan_jobs() {
    local number=$1 system=$2
    job "$number" "plan/$system" --after "train/epochs/searched,train/epochs/$system" \
        --inputs "$expdir/.jobs/train/epochs/searched.json,$expdir/.jobs/train/epochs/$system.json" \
        --outputs "$expdir/conf/time/$system.yaml" -- \
        python -m "$local.equal_time" --expdir "$expdir" --reference train/epochs/searched \
        --reference-config "$expdir/conf/epochs/searched.yaml" --job "train/epochs/$system" \
        --config "$expdir/conf/epochs/$system.yaml" --output "$expdir/conf/time/$system.yaml" \
        --same "$expdir/conf/time/$system.same"
}

# result_jobs STAGE WAITS INPUTS REFERENCE OPTIONS...: the table.
result_jobs() {
    local number=$1 waits=$2 inputs=$3 reference=$4
    shift 4
    # shellcheck disable=SC2086
    job "$number" results --after "$waits" \
        --outputs "$expdir/results/RESULTS.md,$expdir/results/results.json" \
        --inputs "$expdir/measure.json,$reference,$corpus/corpus.json$inputs" -- \
        python -m "$local.collect" --expdir "$expdir" --systems $systems --reference "$reference" \
        --corpus "$corpus/corpus.json" --seed "$seed" --output "$expdir/results" "$@"
}

# run_all_jobs LAST: run them, and show the table where the last stage is among them.
run_all_jobs() {
    echo "$(date '+%F %T') stages $stage to $stop_stage, $nj jobs side by side"
    python -m recipes.mini.local.run_jobs "$jobs" --expdir "$expdir" --nj "$nj"
    if [ "$stop_stage" -ge "$1" ]; then
        cat "$expdir/results/RESULTS.md"
        echo "$(date '+%F %T') results: $(cd "$expdir" && pwd)/results"
    fi
}
