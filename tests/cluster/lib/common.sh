# What every script here needs: words, waits, and kubectl with a limit.

say() { printf 'cluster: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# need_root: namespaces, bridges and containers are root's business.
need_root() { [[ $EUID == 0 ]] || die "this needs root: it makes namespaces, a bridge and cgroups"; }

# wait_for WHAT COMMAND...: until the command succeeds. Says what did not come, after WAIT_LIMIT seconds.
wait_for() {
  local what="$1" end=$((SECONDS + WAIT_LIMIT))
  shift
  until "$@" >/dev/null 2>&1; do
    parts_alive || return 1
    if ((SECONDS >= end)); then
      say "waited $WAIT_LIMIT s in vain for: $what"
      return 1
    fi
    sleep 0.1
  done
}

# Scripts that run parts of their own replace this, so that a wait ends when one of them dies.
parts_alive() { true; }

# kubectl ARGUMENTS...: the one that was built here. Against a dead API server it would wait for ever.
kubectl() { timeout --kill-after=5 "$CALL_LIMIT" "$CACHE/bin/kubectl" "$@"; }

# one_at_a_time: two starts at once, or a start and a stop, would meet half-way.
one_at_a_time() {
  mkdir -p "$CACHE"
  exec 9>"$CACHE/lock"
  flock --wait 1800 9 || die "another run here has not ended within half an hour"
}
