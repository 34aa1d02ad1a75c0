#!/usr/bin/env bash
# Cluster-scoped init script for Databricks: one mlflow-proxy beside a job, on the cluster's driver.
#
# It installs mlflow-proxy into a virtual environment of its own, starts it, has it started again whenever it ends, and
# waits until it answers. databricks-cluster.md has the environment lines that belong to it, for both doors.
#
# Variables (spark_env_vars of the cluster); the proxy's own settings, MLFLOW_PROXY_*, are passed on to it:
#
#   MLFLOW_PROXY_UPSTREAM  the workspace, https://...; required
#   MLFLOW_PROXY_HOST      address to listen on; 127.0.0.1
#   MLFLOW_PROXY_PORT      port to listen on; 8080
#   SIDECAR_PACKAGE        what to install: the path of a wheel, or a pinned requirement; required without SIDECAR_COMMAND
#   SIDECAR_REQUIREMENTS   locked dependencies to install first, with hashes (deploy/requirements.txt); none
#   SIDECAR_COMMAND        an mlflow-proxy that the image already has; nothing is installed then
#   SIDECAR_NODES          driver, or all for a proxy on every node (share a budget by MLFLOW_PROXY_REDIS); driver
#   SIDECAR_PYTHON         Python 3.11 or newer, with pip; the runtime's own
#   SIDECAR_USER           the proxy runs as this user; nobody
#   SIDECAR_HOME           where it is installed; /opt/mlflow-proxy
#   SIDECAR_LOG            its log, at most two files of SIDECAR_LOG_BYTES (5 MiB); /var/log/mlflow-proxy.log
#   SIDECAR_WAIT           seconds to wait until it answers; 60
#   SIDECAR_INSTALL_WAIT   seconds that pip may take; 300
#
# Names that begin with MLFLOW_PROXY_ are the proxy's settings, and it refuses those it does not know. That is why the
# script's own begin otherwise.
#
# When it fails. The cluster's environment sends every MLflow call to this proxy. Without it they would go to a port
# where nobody listens, and the job would fail later, after minutes of retries, with a message about something else. So
# when the proxy cannot be installed or does not answer in time, the script says why and exits with 1, and the launch
# fails. A proxy that answers but cannot reach the workspace yet is only warned of: it answers reads with 503, which
# clients repeat.

set -euo pipefail
umask 022

say() { printf '%s mlflow-proxy sidecar: %s\n' "$(date -u +%FT%TZ)" "$*" >&2; }

die() {
    say "FAILED: $*"
    exit 1
}

home=${SIDECAR_HOME:-/opt/mlflow-proxy}
log=${SIDECAR_LOG:-/var/log/mlflow-proxy.log}
log_bytes=${SIDECAR_LOG_BYTES:-5242880}
user=${SIDECAR_USER-nobody}
wait=${SIDECAR_WAIT:-60}
install_wait=${SIDECAR_INSTALL_WAIT:-300}

case ${SIDECAR_NODES:-driver} in
    all) ;;
    driver)
        # Databricks says TRUE on the driver; where it says nothing, this machine is all there is.
        if [[ ${DB_IS_DRIVER:-TRUE} != TRUE ]]; then
            say "this node is not the driver; nothing to do"
            exit 0
        fi
        ;;
    *) die "SIDECAR_NODES is '$SIDECAR_NODES'; set driver or all" ;;
esac

[[ -n ${MLFLOW_PROXY_UPSTREAM:-} ]] ||
    die "MLFLOW_PROXY_UPSTREAM is not set; set it to the workspace, such as https://my-workspace.cloud.databricks.com"
for name in log_bytes wait install_wait; do
    [[ ${!name} =~ ^[1-9][0-9]{0,11}$ ]] || die "SIDECAR_${name^^} is '${!name}'; set a whole number from 1 up"
done

export MLFLOW_PROXY_HOST=${MLFLOW_PROXY_HOST:-127.0.0.1}
export MLFLOW_PROXY_PORT=${MLFLOW_PROXY_PORT:-8080}

if [[ -n ${SIDECAR_PYTHON:-} ]]; then
    python=$SIDECAR_PYTHON
elif [[ -x /databricks/python/bin/python ]]; then
    python=/databricks/python/bin/python
else
    python=python3
fi

# --- Install ----------------------------------------------------------------------------------------------------------

# Installing needs neither ensurepip nor a pip in the new environment: the other interpreter's pip fills it.
pip_install() {
    timeout "$install_wait" "$python" -m pip --python "$home/venv/bin/python" --disable-pip-version-check \
        install --quiet --no-input "$@" >&2 || die "pip could not install $*; its reason is above"
}

mkdir -p "$home" "$(dirname "$log")" || die "cannot create $home and the directory of $log"
if [[ -n ${SIDECAR_COMMAND:-} ]]; then
    command=$SIDECAR_COMMAND
else
    [[ -n ${SIDECAR_PACKAGE:-} ]] ||
        die "SIDECAR_PACKAGE is not set; set it to the path of the wheel, or to a pinned requirement"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$python is missing or older than Python 3.11; use a runtime from 15.4 LTS on, or set SIDECAR_PYTHON"
    command=$home/venv/bin/mlflow-proxy
    "$python" -m venv --clear --without-pip "$home/venv" || die "cannot create a virtual environment in $home/venv"
    if [[ -n ${SIDECAR_REQUIREMENTS:-} ]]; then
        pip_install --no-deps --require-hashes --requirement "$SIDECAR_REQUIREMENTS"
        pip_install --no-deps "$SIDECAR_PACKAGE"
    else
        pip_install "$SIDECAR_PACKAGE"
    fi
fi
version=$("$command" --version) || die "$command does not run"

# --- Start ------------------------------------------------------------------------------------------------------------

# The proxy gets its settings and nothing else: no token of the cluster's, and no right of root's.
(
    umask 077
    for name in $(compgen -e); do
        case $name in
            MLFLOW_PROXY_* | SSL_CERT_FILE | SSL_CERT_DIR) printf 'export %s=%q\n' "$name" "${!name}" ;;
        esac
    done >"$home/environment"
    {
        printf 'command=%q\nlog=%q\nlog_bytes=%q\nhome=%q\nas_user=(' "$command" "$log" "$log_bytes" "$home"
        if [[ $(id -u) -eq 0 && -n $user && $user != root ]]; then
            printf '%q ' setpriv "--reuid=$user" "--regid=$(id -g "$user")" --clear-groups --no-new-privs
        fi
        printf ')\n'
    } >"$home/service"
) || die "cannot prepare the service in $home"

cat >"$home/supervise" <<'SUPERVISE'
#!/usr/bin/env bash
# Written by databricks-init.sh: keeps mlflow-proxy running and its log short. Stop it with SIGTERM.
set -uo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/environment"
source "$here/service"

keep_log() {
    local line size
    size=$(stat -c %s "$log" 2>/dev/null || echo 0)
    while IFS= read -r line; do
        if ((size > 0 && size + ${#line} >= log_bytes)); then
            mv -f "$log" "$log.1"
            size=0
        fi
        printf '%s\n' "$line" >>"$log"
        size=$((size + ${#line} + 1))
    done
}

child=
stop() {
    trap '' TERM INT
    if [[ -n $child ]]; then
        kill "$child" 2>/dev/null
        wait "$child"
    fi
    rm -f "$home/pid"
    exit 0
}
trap stop TERM INT
exec > >(trap '' TERM INT; keep_log) 2>&1

echo $$ >"$home/pid"
pause=1
while :; do
    began=$SECONDS
    ${as_user[@]+"${as_user[@]}"} "$command" serve &
    child=$!
    wait "$child"
    status=$?
    child=
    # 2 is a wrong setting, which the next start would find as wrong.
    if ((status == 2)); then
        rm -f "$home/pid"
        exit 2
    fi
    ((SECONDS - began < 60)) || pause=1
    echo "mlflow-proxy ended with status $status; starting it again in $pause s"
    sleep "$pause" &
    wait $!
    pause=$((pause < 16 ? pause * 2 : 30))
done
SUPERVISE

running() { [[ -s $home/pid ]] && kill -0 "$(<"$home/pid")" 2>/dev/null; }

if running; then
    say "already running as process $(<"$home/pid"); stopping it first"
    kill "$(<"$home/pid")"
    for ((i = 0; i < 40; i++)); do
        running || break
        sleep 1
    done
fi
rm -f "$home/pid"
before=$(stat -c %s "$log" 2>/dev/null || echo 0)

bash=$(type -P bash)
path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
clean=(env -i "PATH=$path" LANG=C.UTF-8 "$bash" "$home/supervise")
if ! { [[ -d /run/systemd/system ]] && command -v systemd-run >/dev/null &&
    systemd-run --quiet --collect --unit="mlflow-proxy-$$" --property=Restart=on-failure \
        --property=RestartPreventExitStatus=2 --property=KillMode=mixed --property=TimeoutStopSec=40 \
        -- "${clean[@]}"; }; then
    setsid "${clean[@]}" </dev/null >/dev/null 2>&1 &
fi

# --- Wait -------------------------------------------------------------------------------------------------------------

case $MLFLOW_PROXY_HOST in
    0.0.0.0) address=127.0.0.1 ;;
    ::) address='[::1]' ;;
    *:*) address="[$MLFLOW_PROXY_HOST]" ;;
    *) address=$MLFLOW_PROXY_HOST ;;
esac
url=http://$address:$MLFLOW_PROXY_PORT

# The environment's own HTTP proxy settings must not come between; 0 only for the status 200.
probe() {
    "$python" -c 'import sys, urllib.request as u
try:
    u.build_opener(u.ProxyHandler({})).open(sys.argv[1], timeout=float(sys.argv[2]))
except (OSError, ValueError):
    sys.exit(1)' "$url/-/$1" "$2"
}

fail() {
    sleep 0.3 # for its last words to reach the log
    say "what the proxy said last ($log):"
    tail -n 20 "$log" 2>/dev/null | sed 's/^/    /' >&2 || true
    ! running || kill "$(<"$home/pid")" || true
    die "$*"
}

began=$SECONDS
until running; do
    if ((SECONDS - began >= 10)) || [[ $(stat -c %s "$log" 2>/dev/null || echo 0) -gt $before ]]; then
        sleep 0.5
        running || fail "the proxy could not be started"
    fi
    sleep 0.1
done
until probe healthz 2; do
    running || fail "the proxy refused its settings or ended at once"
    ((SECONDS - began < wait)) || fail "$url/-/healthz does not answer with 200 after $wait s"
    sleep 0.2
done
# Another program may hold the port and answer in its stead.
running || fail "something else answers at $url"
if probe readyz 5; then
    say "$version answers at $url for $MLFLOW_PROXY_UPSTREAM; log: $log"
else
    say "WARNING: $version answers at $url, but cannot reach $MLFLOW_PROXY_UPSTREAM yet ($url/-/readyz says why)"
fi
