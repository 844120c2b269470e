# shellcheck shell=bash disable=SC2034,SC2153,SC2154  # what is set, and read, in demo.sh
# The chapter of the demo that rehearses a recovery, and leaves a report of it. Sourced by demo.sh,
# after demo-postgres.sh, whose stack it recovers.

drill_chapter() {
    chapter "A drill: the stack is recovered for practice, measured against its tier, and evidence is left"
    local report=$TARGET_DIR/demo-drill
    mkdir -m 0711 drill
    if [ -n "$root" ]; then
        # As root, so that the server gets a network of its own.
        program=(env "BACKSTAY_POLICY=$P/policy.yaml" bin/backstay)
    else
        program=(as "$P/backstay")
    fi
    bs drill run quarterly --scratch "$W/drill" --programs "$server_bin" --identity "$P/recovery.key"
    local took=$SECS status=$RC verdict place
    cp logs/out logs/drill
    verdict=$(head -n 1 logs/out)
    place=$(sed -n 's/^  evidence: //p' logs/out)
    if [ "$status" -eq 0 ] && [ -d "$place" ] && [ -z "$(ls -A drill)" ]; then
        proved "a drill recovers PostgreSQL and files, and measures RTO and RPO" "${verdict%%  *}, nothing left over" "$took"
    else
        not_proved "a drill recovers PostgreSQL and files" "exit status $status: $verdict"
        program=(bin/backstay)
        return
    fi
    QUIET=1 bs drill verify "$place"
    local whole=$RC
    rm -rf -- "$report"
    cp -r -- "$place" "$report"
    chmod -R u+rwX "$report"
    sed -i '0,/pass/s//Pass/' "$report/journal.jsonl"
    QUIET=1 bs drill verify "$report"
    if [ "$whole" -eq 0 ] && [ "$RC" -eq 5 ]; then
        proved "one changed letter in the evidence is found" "exit status 5 (verify)" "$SECS"
    else
        not_proved "one changed letter in the evidence is found" "exit status $whole (unchanged), $RC (changed)"
    fi
    rm -rf -- "$report"
    cp -r -- "$place" "$report"
    drill_said=$(sed -n '1p;/^  RTO/p;/^  RPO/p' logs/drill)
    drill_report=$report/report.html
    program=(bin/backstay)
}
