# The node's images: from archives alone.

IMPORT_LIMIT=300 # Seconds for one archive.

import_image() { # import_image ARCHIVE
  inside timeout "$IMPORT_LIMIT" ctr --address "$SOCKET" --namespace k8s.io images import - <"$1" >/dev/null
}
