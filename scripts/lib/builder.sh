# Docker where it answers, else buildah, which needs root but no service. What buildah keeps is in the cache.

PULL_LIMIT=120 # Seconds that a registry may take.

# choose_builder: sets BUILDER, and BUILDAH, its command. In mounts of its own, so that none is left in the cache.
choose_builder() {
  if docker info >/dev/null 2>&1; then
    BUILDER=docker
  else
    [[ $EUID == 0 ]] || die "no Docker is running here, and buildah needs root to build"
    need buildah
    BUILDER=buildah
  fi
  BUILDAH=(
    unshare --mount --propagation private
    buildah --storage-driver overlay --root "$CACHE/buildah" --runroot "$CACHE/buildah/run"
  )
}

# need PROGRAM: installs Debian's package of this name, if it is missing and that can be done.
need() {
  command -v "$1" >/dev/null && return
  command -v apt-get >/dev/null || die "$1 is missing; it builds images where no Docker runs"
  say "installing $1"
  apt-get -o DPkg::Lock::Timeout=300 update -qq
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "$1" >/dev/null
}

# build_image IMAGE DOCKERFILE FOLDER: builds it from the files in the folder. SETTINGS is the folder of machine_settings.
build_image() {
  local options=(--quiet --file "$2" --tag "$1") file variable
  for file in "$SETTINGS"/*; do
    [[ ! -e $file ]] || options+=(--secret "id=${file##*/},src=$file")
  done
  for variable in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    [[ -z "${!variable:-}" ]] || options+=(--build-arg "$variable=${!variable}")
  done
  case "$BUILDER" in
    docker) docker build "${options[@]}" "$3" ;;
    buildah) "${BUILDAH[@]}" bud --layers --isolation chroot --pull=never "${options[@]}" "$3" ;;
  esac >"$SETTINGS.log" 2>&1 || { cat "$SETTINGS.log" >&2; die "$1 could not be built"; }
}

# pull_image IMAGE: succeeds if a registry gives it.
pull_image() {
  case "$BUILDER" in
    docker) timeout "$PULL_LIMIT" docker pull --quiet "$1" ;;
    buildah) timeout "$PULL_LIMIT" "${BUILDAH[@]}" pull --quiet "$1" ;;
  esac >/dev/null 2>&1
}

have_image() {
  case "$BUILDER" in
    docker) docker image inspect "$1" ;;
    buildah) "${BUILDAH[@]}" inspect --type image "$1" ;;
  esac >/dev/null 2>&1
}

# save_image IMAGE ARCHIVE: of the kind that docker load, ctr and kind take.
save_image() {
  rm -f "$2.new"
  case "$BUILDER" in
    docker) docker save --output "$2.new" "$1" ;;
    buildah) "${BUILDAH[@]}" push --quiet "$1" "docker-archive:$2.new:$1" ;;
  esac
  mv "$2.new" "$2"
}
