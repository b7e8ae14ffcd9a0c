# Images and archives of them in the cache. What has not changed is not built again. Whoever sources this has say and die.

# begin_images: one at a time. Sets the builder, WORK, a folder that goes at the end, and SETTINGS, what this machine is set to.
begin_images() {
  mkdir -p "$CACHE"/{images,done,buildah}
  exec 9>"$CACHE/images.lock"
  flock 9
  choose_builder
  WORK="$(mktemp -d "$CACHE/building.XXXXXX")"
  trap 'rm -rf --one-file-system "$WORK"' EXIT
  SETTINGS="$WORK/settings"
  mkdir "$SETTINGS"
  machine_settings "$SETTINGS"
}

# gather NAME FILES...: puts all that an image's Dockerfile copies into a folder.
gather() {
  mkdir "$WORK/$1"
  cp "${@:2}" "$WORK/$1/"
}

# build_cached NAME IMAGE DOCKERFILE: of what was gathered for NAME. The archive is images/NAME.tar.
build_cached() {
  local name="$1" image="$2" dockerfile="$3" archive="$CACHE/images/$1.tar" mark="$CACHE/done/image-$1" start=$SECONDS inputs
  # One word for all that it is made of.
  inputs="$(cat -- "$WORK/$name"/* "$dockerfile" | sha256sum | cut -c1-16)"
  if [[ ! -e $archive || "$(cat "$mark" 2>/dev/null || true)" != "$inputs" ]]; then
    say "building $image"
    ensure_base
    build_image "$image" "$dockerfile" "$WORK/$name"
    save_image "$image" "$archive"
    printf '%s\n' "$inputs" >"$mark"
    say "built $image ($((SECONDS - start)) s)"
  fi
  say "$image is in $archive ($(du -m "$archive" | cut -f1) MB)"
}
