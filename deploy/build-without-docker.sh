#!/bin/sh
# Builds deploy/Dockerfile and tries the image, on a Debian without a container engine: buildah in a
# chroot, over a base image made by debootstrap. Both are Debian's packages; it takes root.
#
#   apt-get install buildah debootstrap
#   deploy/build-without-docker.sh [WORK-FOLDER]
#
# PIP_CERT, if set, names the CA bundle that pip needs on this network; PIP_INDEX_URL its index.
# What it leaves: the folder WORK-FOLDER/root, the image's file system.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-$(mktemp -d)}
suite=${SUITE:-bookworm}
mkdir -p "$work"

# Everything of buildah's below the work folder, with the one storage driver that needs no kernel's help.
store="--root $work/storage --runroot $work/run --storage-driver vfs"

if [ ! -d "$work/base" ]; then
    echo "== base: Debian $suite with Python and a C compiler"
    debootstrap --variant=minbase --include=python3,python3-venv,python3-dev,gcc,libc6-dev \
        "$suite" "$work/base"
fi
container=$(buildah $store from scratch)
buildah $store copy -q "$container" "$work/base" / >/dev/null
buildah $store commit -q "$container" pooler-base >/dev/null
buildah $store rm "$container" >/dev/null

echo "== image"
volumes=""
if [ -n "${PIP_CERT:-}" ]; then
    printf '[global]\ncert = /etc/pip-ca.crt\n' > "$work/pip.conf"
    volumes="--volume $PIP_CERT:/etc/pip-ca.crt:ro --volume $work/pip.conf:/etc/pip.conf:ro"
fi
if [ -n "${PIP_INDEX_URL:-}" ]; then
    volumes="$volumes --env PIP_INDEX_URL=$PIP_INDEX_URL"
fi
buildah $store bud --isolation chroot --format docker --build-arg BASE=localhost/pooler-base \
    $volumes -f "$here/deploy/Dockerfile" -t pooler "$here"

echo "== its file system, in $work/root"
container=$(buildah $store from localhost/pooler)
mounted=$(buildah $store mount "$container")
rm -rf "$work/root"
cp -a "$mounted" "$work/root"
buildah $store umount "$container" >/dev/null
buildah $store inspect --type image --format '{{.Docker.Config}}' localhost/pooler
buildah $store rm "$container" >/dev/null

echo "== it runs: PID 1, user 65532, nothing to write to, and no shell"
rm -f "$work"/root/bin/*sh "$work"/root/usr/bin/*sh
unshare --mount --pid --fork --kill-child sh -c "
    mount --bind '$work/root' '$work/root' && mount -o remount,bind,ro '$work/root' &&
    exec env -i PATH=$PATH POOLER_UPSTREAM=postgresql://nobody@127.0.0.1:1/none POOLER_LISTEN_HOST=127.0.0.1 \
        POOLER_LISTEN_PORT=0 POOLER_METRICS_LISTEN=127.0.0.1:${PORT:-19127} \
        chroot --userspec=65532:65532 '$work/root' /opt/pooler/bin/pooler" &
process=$!
trap 'kill -KILL $process 2>/dev/null || true' EXIT
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    sleep 1
    chroot --userspec=65532:65532 "$work/root" /opt/pooler/bin/python -m pooler.healthcheck \
        "127.0.0.1:${PORT:-19127}" && break
done
chroot --userspec=65532:65532 "$work/root" /opt/pooler/bin/python -m pooler.healthcheck \
    "127.0.0.1:${PORT:-19127}"
kill -TERM "$(cat /proc/$process/task/$process/children)"
wait $process
echo "== healthy, and it left when it was told to"
