#!/bin/sh
# Make docker/secrets/, or $FLOWERPRESS_SECRETS: certificates, secrets and keys for compose.tls.yml, by the program in the
# image, as the user who calls this. Arguments are further names and addresses by which SuperNodes reach the proxy.
# Call it again for other hosts or another year: what is there is kept, but for the server's certificate.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${FLOWERPRESS_SECRETS:-$here/secrets}
hosts=""
for host in superlink proxy localhost 127.0.0.1 "$@"; do hosts="$hosts --host $host"; done

docker compose -f "$here/compose.yml" build superlink
# Compose mounts the files as they are, into containers of another user: those have to be able to read them. The folder
# keeps the other users of this machine out.
mkdir -p "$folder"
chmod 0700 "$folder"
# shellcheck disable=SC2086
docker run --rm --network none --user "$(id -u):$(id -g)" --volume "$folder:/secrets" flowerpress:latest \
    flowerpress deploy keys /secrets --nodes 3 $hosts
find "$folder" -type f ! -name ca.key -exec chmod 0644 {} +
