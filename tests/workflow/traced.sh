# traced.sh NAME COMMAND ARGUMENTS...: runs a command; `order` says when it began and ended.
name=$1
shift
echo "+$name" >>order
sh -c "$@" || exit
echo "-$name" >>order
