#!/bin/sh
# Make the peers' environments under .venvs/ (ignored by git), each apart from trainkit's own and from each other.
#
#     sh benchmarks/peers/install.sh [PYTHON [NAME...]]
#
# Without names, those that benchmarks compare with; sdk-v2-client and sdk-v3-client, AWS's SDKs whole, are for tests/interop.
#
# The toolkit is a source distribution with a C extension: it needs a C compiler. The CPU build of torch comes from
# where pip is configured to look; elsewhere add PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
set -eu
python=${1:-python3}
here=$(cd "$(dirname "$0")" && pwd)
venvs=$(dirname "$(dirname "$here")")/.venvs
failed=0

install() {
    name=$1
    shift
    echo "$venvs/$name"
    if ! { "$python" -m venv --clear "$venvs/$name" &&
        "$venvs/$name/bin/python" -m pip install --quiet "$@" -r "$here/requirements-$name.txt"; }; then
        echo "$name could not be installed; the benchmark will say so in its row" >&2
        rm -rf "${venvs:?}/$name"
        failed=1
    fi
}

if [ $# -gt 1 ]; then
    shift
    for name in "$@"; do install "$name"; done
    exit "$failed"
fi
install sdk-v3 --no-deps
install toolkit
install pytorch-toolkit
install streaming --no-deps
install checkpoints --no-deps
exit "$failed"
