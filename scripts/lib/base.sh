# The images' common base, made from Debian's packages where no registry can be reached.

BASE_IMAGE=docker.io/library/debian:trixie-slim # As the Dockerfiles say.
SUITE=trixie

# ensure_base: gets the base, or makes it.
ensure_base() {
  have_image "$BASE_IMAGE" && return
  pull_image "$BASE_IMAGE" && return
  say "no registry gives $BASE_IMAGE: making it with debootstrap"
  [[ $EUID == 0 ]] || die "no registry gives $BASE_IMAGE, and debootstrap needs root to make it"
  need debootstrap
  local folder="$WORK/base" start=$SECONDS
  mkdir -p "$folder"
  debootstrap --variant=minbase --include=ca-certificates "$SUITE" "$folder/root" >"$folder/log" 2>&1 ||
    { tail -n 20 "$folder/log" >&2; die "debootstrap failed"; }
  slim "$folder/root"
  tar -C "$folder/root" -cf "$folder/root.tar" .
  rm -rf --one-file-system "$folder/root"
  printf 'FROM scratch\nADD root.tar /\nCMD ["bash"]\n' >"$folder/Dockerfile"
  build_image "$BASE_IMAGE" "$folder/Dockerfile" "$folder"
  rm -rf "$folder"
  say "made the base ($((SECONDS - start)) s)"
}

# ensure_pulled IMAGE: gets a base that nothing here can make.
ensure_pulled() { have_image "$1" || pull_image "$1" || die "no registry gives $1, and it cannot be made here"; }

# slim ROOT: leaves out what Debian's own slim image does, and all that is of this machine.
slim() {
  find "$1/usr/share/doc" -type f -not -name copyright -delete
  find "$1/dev" -mindepth 1 -delete
  rm -rf "$1"/usr/share/{man,info,locale,lintian,groff}/* "$1"/var/cache/* "$1"/var/log/* "$1"/var/lib/apt/lists/*
  rm -f "$1"/etc/{hostname,resolv.conf,machine-id,apt/sources.list}
  # Not the mirror that this machine is set to: the one that debootstrap has where nothing is said.
  local mirror
  mirror="$(sed -n 's/^DEF_MIRROR="\(.*\)"$/\1/p' "$(command -v debootstrap)")"
  cat >"$1/etc/apt/sources.list.d/debian.sources" <<END_OF_SOURCES
Types: deb
URIs: $mirror
Suites: $SUITE $SUITE-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.pgp

Types: deb
URIs: $mirror-security
Suites: $SUITE-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.pgp
END_OF_SOURCES
}
