#!/bin/sh
# Run the whole test suite. As root: install what the tests drive, and run them as an unprivileged
# user with subordinate ids, in a copy of the checkout that this user owns; then the few tests that
# need root. As anybody else: run them here, and name once what is missing.
set -eu
packages="podman buildah runc crun uidmap skopeo umoci docker-registry mmdebstrap busybox-static
fuse-overlayfs slirp4netns python3-venv make git strace graphviz openssh-client openssl libarchive-tools zstd"
user=assembler-test
home=/var/tmp/$user
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"

missing=
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done

if [ "$(id -u)" != 0 ]; then
    if [ -n "$missing" ]; then
        echo "Not installed:$missing"
        echo "The integration tests that drive them are skipped. As root: apt-get install$missing"
    fi
    sh tests/venv.sh .venv '.[test]'
    touch .venv/installed .venv/tested
    exec .venv/bin/pytest "$@"
fi

if [ -n "$missing" ]; then
    # A mirror may be busy for a moment, and a machine that has just started at its own upgrades.
    patient="-o Acquire::Retries=5 -o DPkg::Lock::Timeout=600"
    # shellcheck disable=SC2086
    apt-get update -q $patient >/dev/null
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q $patient --no-install-recommends $missing >/dev/null
fi
id "$user" >/dev/null 2>&1 || useradd --create-home --home-dir "$home" --shell /bin/sh "$user"
for file in /etc/subuid /etc/subgid; do
    grep -q "^$user:" "$file" || echo "$user:$((300000 + $(id -u $user) * 65536)):65536" >>"$file"
done

work=$home/checkout
rm -rf "$work"
rm -rf "/tmp/pytest-of-$user" || true  # of earlier runs; one that is under way may be at work there
install -d -o "$user" -g "$user" "$home" "$work" "$home/run"
git -c safe.directory="$top" ls-files -z --cached --others --exclude-standard |
    tar --null --files-from=- --ignore-failed-read -cf - 2>/dev/null | tar -xf - -C "$work"
chown -R "$user:$user" "$work"
chmod 700 "$home/run"

PYTHON=/usr/bin/python3
if ! $PYTHON -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Debian's python3 is older than 3.11" >&2
    exit 1
fi
as_user() {
    setpriv --reuid "$user" --regid "$user" --init-groups --reset-env \
        env HOME="$home" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        XDG_RUNTIME_DIR="$home/run" CI="${CI:-}" PYTHON=$PYTHON LANG=C.UTF-8 "$@"
}
# The package index and certificates of this machine's pip, for a user with another environment.
for name in PIP_CERT PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS SSL_CERT_FILE; do
    eval "value=\${$name:-}"
    [ -z "$value" ] || set -- "$@" "--with-env=$name=$value"
done
pip_environment=
for word in "$@"; do
    case $word in --with-env=*) pip_environment="$pip_environment ${word#--with-env=}" ;; esac
done
rest=
for word in "$@"; do
    case $word in --with-env=*) ;; *) rest="$rest $word" ;; esac
done
cd "$work"
# shellcheck disable=SC2086
as_user env $pip_environment sh tests/venv.sh "$home/venv" '.[test]'
# shellcheck disable=SC2086
as_user "$home/venv/bin/pytest" -m "not root" $rest
# shellcheck disable=SC2086
[ -n "$rest" ] || "$home/venv/bin/pytest" -q -m root -p no:cacheprovider
