#!/usr/bin/env bash
# An S3 server on this machine, for tests and for trying things out: Ceph's object gateway (radosgw) over one monitor
# and one OSD. Wants Debian or Ubuntu, and root for `install` only.
#
#   infra/s3-server.sh install        Ceph's packages, unless they are there
#   infra/s3-server.sh start          make the cluster when there is none, start what does not run, wait until it serves
#   infra/s3-server.sh bucket NAME    make a bucket
#   infra/s3-server.sh stop | kill    SIGTERM | SIGKILL to what was started here; the data stay
#   infra/s3-server.sh delete         kill, and remove all data
#
#   infra/s3-server.sh start && set -a && . .ganpipe/s3/environment && set +a       then: GANPIPE_STORE=s3://NAME/prefix
#
# S3_FOLDER (default .ganpipe/s3) holds everything (but the logs, when S3_LOGS names a folder), S3_PORT (default 9000)
# is the gateway's; the monitor listens on the next port. All sockets are on loopback. Only S3 requests are authenticated, by random keys in S3_FOLDER/environment;
# the daemons trust whoever reaches their ports, so this is nothing to keep secrets or the only copy of anything in.
set -euo pipefail

FOLDER=$(realpath -m "${S3_FOLDER:-.ganpipe/s3}")
PORT=${S3_PORT:-9000}
LOGS=$(realpath -m "${S3_LOGS:-$FOLDER}")
DISK_GB=${S3_DISK_GB:-20}  # of the OSD's file, which is sparse
CONF=$FOLDER/ceph.conf
WAIT_SECONDS=60

fail() {
    echo "s3-server: $*" >&2
    exit 1
}

installed() {
    local tool
    for tool in ceph ceph-mon ceph-osd radosgw radosgw-admin curl; do
        command -v "$tool" >/dev/null || return 1
    done
}

install_packages() {
    installed && return
    command -v apt-get >/dev/null || fail "needs Debian or Ubuntu: there is no apt-get to install Ceph with"
    [ "$(id -u)" = 0 ] || fail "needs root to install: ceph-mon ceph-osd radosgw curl"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null
    apt-get install -y -qq --no-install-recommends ceph-mon ceph-osd radosgw curl >/dev/null 2>&1 ||
        fail "apt-get could not install ceph-mon ceph-osd radosgw curl"
}

configure() {
    cat >"$CONF" <<END
[global]
fsid = $(cat "$FOLDER/fsid")
mon host = [v2:127.0.0.1:$((PORT + 1))]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
# radosgw insists on encryption, for which the monitor has no keys without authentication
ms mon client mode = crc
admin socket =
crash dir = $FOLDER
log file = $LOGS/\$name.log
mon cluster log file = $LOGS/cluster.log

mon data = $FOLDER/mon
mon data avail crit = 1
mon allow pool size one = true
mon max pg per osd = 1000
# every change of the cluster waits this long for others, and the first start makes a dozen
paxos propose interval = 0.05
paxos min wait = 0.01
osd pool default size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0

osd data = $FOLDER/osd
osd memory target = 1Gi
bluestore block size = $((DISK_GB << 30))

rgw data = $FOLDER/gateway
# without it every small answer waits 40 ms for a delayed acknowledgement
rgw frontends = beast endpoint=127.0.0.1:$PORT tcp_nodelay=1
END
}

runs() { # runs NAME: whether the daemon does, and is ours: process ids are given away again
    local pid
    pid=$(cat "$FOLDER/$1.pid" 2>/dev/null) && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "-c $CONF "
}

daemon() { # daemon NAME COMMAND ARGUMENT...
    local name=$1
    runs "$name" && return
    setsid "$2" -c "$CONF" "${@:3}" -f </dev/null >>"$LOGS/$name.out" 2>&1 &
    echo $! >"$FOLDER/$name.pid"
}

serves() { [ "$(curl -s -o /dev/null -m 2 -w '%{http_code}' "http://127.0.0.1:$PORT/")" = 200 ]; }

once() { # once MARK COMMAND ARGUMENT...: a step of making the cluster, which is not repeated
    [ -e "$FOLDER/made.$1" ] && return
    "${@:2}" >>"$LOGS/making.log" 2>&1 || fail "could not make $1, see $LOGS/making.log"
    touch "$FOLDER/made.$1"
}

make_monitor() {
    local map=$FOLDER/monmap
    monmaptool --create --clobber --fsid "$(cat "$FOLDER/fsid")" --addv a "[v2:127.0.0.1:$((PORT + 1))]" "$map" &&
        ceph-mon -c "$CONF" --mkfs -i a --monmap "$map"
}

make_osd() {
    local uuid
    uuid=$(cat /proc/sys/kernel/random/uuid)
    timeout "$WAIT_SECONDS" ceph -c "$CONF" osd new "$uuid" 0 &&
        ceph-osd -c "$CONF" --mkfs -i 0 --osd-uuid "$uuid"
}

make_keys() { # Ceph makes them up; they are never on a command line
    local user=$FOLDER/user.json
    timeout "$WAIT_SECONDS" radosgw-admin -c "$CONF" user create --uid ganpipe --display-name ganpipe >"$user" || return
    cat >"$FOLDER/environment" <<END
AWS_ENDPOINT_URL=http://127.0.0.1:$PORT
AWS_ACCESS_KEY_ID=$(value_of access_key <"$user")
AWS_SECRET_ACCESS_KEY=$(value_of secret_key <"$user")
AWS_DEFAULT_REGION=us-east-1
END
    rm "$user"
}

value_of() { sed -n "s/.*\"$1\": \"\([^\"]*\)\".*/\1/p"; }

start() {
    installed || fail "Ceph is not installed; run \`$0 install\` as root"
    umask 077
    mkdir -p "$FOLDER"/{mon,osd,gateway} "$LOGS"
    [ -s "$FOLDER/fsid" ] || cat /proc/sys/kernel/random/uuid >"$FOLDER/fsid"
    configure
    runs gateway || ! serves || fail "another server answers at port $PORT; set S3_PORT"
    once monitor make_monitor
    daemon mon ceph-mon -i a
    once osd make_osd
    daemon osd ceph-osd -i 0
    daemon gateway radosgw -n client.gateway
    local deadline=$((SECONDS + WAIT_SECONDS)) name
    until serves; do
        for name in mon osd gateway; do
            runs "$name" || fail "$name ended: $(tail -n 3 "$LOGS/$name.out")"
        done
        [ $SECONDS -lt $deadline ] || fail "does not serve after $WAIT_SECONDS s, see the logs in $LOGS"
        sleep 0.2
    done
    once keys make_keys
    echo "serves at http://127.0.0.1:$PORT, keys in $FOLDER/environment" >&2
}

bucket() {
    [ -n "${1:-}" ] || fail "which bucket?"
    [ -e "$FOLDER/environment" ] || fail "there is no server in $FOLDER"
    . "$FOLDER/environment"
    curl -sS -f -m 30 -X PUT -K - "$AWS_ENDPOINT_URL/$1" <<END
aws-sigv4 = "aws:amz:$AWS_DEFAULT_REGION:s3"
user = "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY"
header = "x-amz-content-sha256: $(sha256sum </dev/null | cut -d ' ' -f 1)"
END
}

stop() { # stop SIGNAL
    local name deadline
    for name in gateway osd mon; do
        deadline=$((SECONDS + 20))
        runs "$name" && kill -s "$1" "$(cat "$FOLDER/$name.pid")"
        while runs "$name"; do
            [ $SECONDS -lt $deadline ] || kill -s KILL "$(cat "$FOLDER/$name.pid")"
            sleep 0.1
        done
        rm -f "$FOLDER/$name.pid"
    done
}

case ${1:-} in
install) install_packages ;;
start) start ;;
bucket) bucket "${2:-}" ;;
stop) stop TERM ;;
kill) stop KILL ;;
delete)
    stop KILL
    rm -rf -- "$FOLDER"
    ;;
*)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
esac
