# shellcheck shell=bash disable=SC2034,SC2153,SC2154  # what is set, and read, in demo.sh
# The chapter of the demo with a real PostgreSQL. Sourced by demo.sh, whose helpers it uses; everything
# belongs to the server's user, as it would on a database host.

P=$W/postgres
server_up=

# as COMMAND: runs as the server's user, beside the server.
as() {
    "${server_user[@]}" env "HOME=$P" "PATH=$P:$server_bin:$PATH" "BACKSTAY_STATE_DIR=$P/state" \
        "BACKSTAY_POLICY=$P/policy.yaml" "PGHOST=$P/run" PGUSER=postgres PGDATABASE=postgres "$@"
}
sql() { as psql -XAtq -v ON_ERROR_STOP=1 -c "$1"; }
start_server() { as pg_ctl -s -w -t 60 -D "$1" -l "$P/server.log" start && server_up=$1; }
stop_server() { # MODE
    [ -z "$server_up" ] || as pg_ctl -s -w -t 60 -D "$server_up" -m "$1" stop >/dev/null 2>&1 || true
    server_up=
}
# What is in the tables: rows and sums of what pgbench moves about.
ledger() {
    sql "select (select count(*) from pgbench_accounts), (select sum(abalance) from pgbench_accounts),
         (select count(*) from pgbench_history), (select coalesce(sum(delta), 0) from pgbench_history)"
}
# Waits until the server says yes.
until_true() {
    local tries=0
    until [ "$(sql "$1" 2>/dev/null)" = t ]; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || return 1
        sleep 0.1
    done
}

postgres_chapter() {
    chapter "PostgreSQL: a table is dropped by accident, the server is lost, and all comes back to the moment before"
    server_bin=$("$ROOT/scripts/get-postgres.sh" --print)/17/bin
    [ -x "$server_bin/postgres" ] || die "there is no PostgreSQL in $server_bin" "scripts/get-postgres.sh fetches it"
    server_user=()
    mkdir -m 0700 "$P" "$P/run"
    mkdir "$P/site"
    echo "<h1>shop</h1>" >"$P/site/index.html"
    head -c 200000 /dev/urandom >"$P/site/picture"
    install -m 0755 "$binary" "$P/backstay"
    install -m 0600 keys/recovery.key keys/writer.key "$P"
    cat >"$P/policy.yaml" <<END
version: 1
stack: shop
tier: production
timezone: UTC
repositories:
  main:
    local: { path: $P/repository }
    encryption: { recipients: [$recipients], writer_identity: "\${file:$P/writer.key}" }
sources:
  cluster: { postgres_cluster: { connection: "host=$P/run user=postgres dbname=postgres", wal: { archive: { to: [main] }, keep: 7d } } }
  site: { directory: { path: $P/site }, objectives: { rpo: 26h } }
jobs:
  daily: { sources: all, kind: incremental, schedule: { cron: "0 3 * * *" }, keep: { for: 7d, at_least: 3 } }
drills:
  quarterly:
    checks:
      history: { source: cluster, sql: { database: postgres, query: "SELECT count(*) FROM pgbench_history", expect: { at_least: 1000 } } }
      pages: { source: site, files: { present: [index.html], at_least: 2 } }
END
    if [ -n "$root" ]; then
        local user=nobody
        ! id -u postgres >/dev/null 2>&1 || user=postgres
        chown -R "$user:$(id -gn "$user")" "$P"
        server_user=(setpriv "--reuid=$user" "--regid=$(id -gn "$user")" --clear-groups --)
    fi
    program=(as "$P/backstay")
    as initdb -D "$P/data" -U postgres --auth=trust --data-checksums --encoding=UTF8 --locale=C.UTF-8 --no-sync >logs/initdb 2>&1 ||
        die "initdb failed: $(tail -n 1 logs/initdb)"
    as tee -a "$P/data/postgresql.conf" >/dev/null <<END
listen_addresses = ''
unix_socket_directories = '$P/run'
archive_mode = on
archive_command = 'backstay --policy $P/policy.yaml wal push %p'
archive_timeout = 60
summarize_wal = on
END
    start_server "$P/data" || die "PostgreSQL does not start: $(tail -n 1 "$P/server.log")"
    talk "  PostgreSQL $(sql 'show server_version'), archiving with archive_command = 'backstay wal push %p'"
    talk "  $BOLD\$ pgbench -i -s 10$PLAIN"
    as pgbench -i -q -s 10 >logs/pgbench 2>&1 || die "pgbench failed: $(tail -n 1 logs/pgbench)"
    must init
    must check --archive
    must backup shop/cluster --kind full

    talk "  $BOLD\$ pgbench -c 4 -T 5 &$PLAIN   (and a backup while it writes)"
    as pgbench -n -c 4 -T 5 >logs/pgbench 2>&1 </dev/null &
    local load=$!
    sleep 1
    must backup shop
    wait $load || die "pgbench failed: $(tail -n 1 logs/pgbench)"

    local before at segment
    before=$(ledger)
    at=$(sql "select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
    sleep 1
    talk "  $BOLD\$ psql -c 'DROP TABLE pgbench_accounts'$PLAIN   (a second after $at)"
    sql 'drop table pgbench_accounts; insert into pgbench_history select from generate_series(1, 1000)'
    segment=$(sql 'select pg_walfile_name(pg_switch_wal())')
    until_true "select last_archived_wal >= '$segment' from pg_stat_archiver" || die "$segment is not archived"
    must wal status
    stop_server immediate
    rm -rf "$P/data"
    talk "  $BOLD\$ rm -rf data$PLAIN   (and the server is gone)"

    must restore shop/cluster --to "$P/restored" --at "$at" --identity "$P/recovery.key"
    local took=$SECS
    if as pg_verifybackup -n -q "$P/restored" >logs/verifybackup 2>&1; then
        proved "pg_verifybackup agrees with what was restored" "$(human "$(size_of "$P/restored")")" "$took"
    else
        not_proved "pg_verifybackup agrees with what was restored" "$(tail -n 1 logs/verifybackup)"
    fi
    local from
    from=$(now)
    if ! start_server "$P/restored" || ! until_true 'select not pg_is_in_recovery()'; then
        not_proved "a dropped table comes back" "the server does not open: $(tail -n 1 "$P/server.log")"
    elif [ "$(ledger)" = "$before" ]; then
        IFS='|' read -r accounts _ history _ <<<"$before"
        proved "a dropped table comes back, and every transaction before" \
            "$accounts accounts, $history transactions, all sums equal" "$(awk -v a="$took" -v b="$(since "$from")" 'BEGIN { print a + b }')"
    else
        not_proved "a dropped table comes back" "rows and sums were $before and are $(ledger)"
    fi
    stop_server fast
    program=(bin/backstay)
}
