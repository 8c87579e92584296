#!/usr/bin/env bash
# Instructions per frame and per stream of every stack, counted by callgrind: unlike times, they are the same
# on a busy machine. Differences between a large and a small run leave out start-up. The last columns are calls
# of the allocator per stream of one frame, which the bench counts itself. They are not checked.
#
#   benches/instructions.sh           prints the table
#   benches/instructions.sh --check   fails if this crate needs over 5 % more than benches/instructions.txt
#   benches/instructions.sh --update  writes benches/instructions.txt
set -euo pipefail
cd "$(dirname "$0")/.."

readonly baseline=benches/instructions.txt
readonly few=1000 many=11000   # frames of one stream
readonly single=50 several=250 # streams of one frame
readonly tolerance=5 # percent

die() {
    echo "instructions.sh: $*" >&2
    exit 2
}

case "${1:-}" in
"" | --check | --update) ;;
*) die "unknown argument '$1': --check or --update" ;;
esac
[ "${1:-}" != --check ] || [ -f "$baseline" ] || die "no $baseline to compare with: --update writes it"
command -v cargo >/dev/null || die "cargo is not installed"
command -v valgrind >/dev/null || die "valgrind is not installed (apt-get install valgrind): nothing was counted"

built=$(cargo bench --bench instructions --no-run 2>&1) || die "the bench does not build:
$built"
binary=$(sed -n 's/.*Executable benches.instructions\.rs (\(.*\))$/\1/p' <<<"$built")
[ -x "$binary" ] || die "cargo named no executable:
$built"

# Instructions of $2 streams of $3 frames under stack $1.
count() {
    local report
    report=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null \
        --toggle-collect='instructions::counted' "$binary" "$1" "$2" "$3" 2>&1) ||
        die "callgrind failed for '$1':
$report"
    sed -n 's/^==[0-9]*== Collected : //p' <<<"$report"
}

allocations=$("$binary" --allocations) || die "the allocations were not counted"
counted=$(
    "$binary" | while IFS= read -r name; do
        per_frame=$((($(count "$name" 1 $many) - $(count "$name" 1 $few)) / (many - few)))
        per_stream=$((($(count "$name" $several 1) - $(count "$name" $single 1)) / (several - single)))
        printf '%s\t%s\t%s\n' "$name" "$per_frame" "$per_stream"
    done
)
printf '%-24s%12s%10s%22s%10s%14s%10s\n' "instructions" "per frame" added "stream of one frame" added allocations added
awk -F'\t' '
    NR == FNR { calls[$1] = $2; next }
    $1 == "none" { frame = $2; stream = $3 }
    { printf "%-24s%12d%10d%22d%10d%14.1f%10.1f\n",
        $1, $2, $2 - frame, $3, $3 - stream, calls[$1], calls[$1] - calls["none"] }' \
    <(echo "$allocations") <(echo "$counted")

case "${1:-}" in
--update)
    {
        echo "# Stack, instructions per frame of 256 bytes, instructions of a stream of one such frame."
        echo "# Written by benches/instructions.sh --update."
        grep '^this' <<<"$counted"
    } >"$baseline"
    echo "wrote $baseline"
    ;;
--check)
    awk -F'\t' -v tolerance="$tolerance" '
        function compare(what, before, now,    change) {
            change = 100 * (now - before) / before
            if (change > tolerance) {
                printf "\"%s\" needs %d instructions %s, %.1f %% more than the %d of the baseline\n",
                    $1, now, what, change, before
                bad = 1
            } else if (change < -tolerance) {
                printf "\"%s\" got %.1f %% cheaper %s: keep it so with --update\n", $1, -change, what
            }
        }
        /^#/ { next }
        NR == FNR { frame[$1] = $2; stream[$1] = $3; next }
        $1 in frame {
            seen[$1] = 1
            compare("per frame", frame[$1], $2)
            compare("for a stream", stream[$1], $3)
            next
        }
        /^this/ { printf "no baseline for \"%s\"\n", $1; bad = 1 }
        END {
            for (name in frame) if (!(name in seen)) { printf "\"%s\" was not counted\n", name; bad = 1 }
            exit bad
        }' "$baseline" <(echo "$counted") || {
        echo "If that is meant (or a new compiler explains it): benches/instructions.sh --update, and commit $baseline." >&2
        exit 1
    }
    echo "within $tolerance % of $baseline"
    ;;
esac
