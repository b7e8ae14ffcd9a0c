# The host outside the cluster, where nodes send what is for nobody they know: a network namespace with addresses of its own. It has a
# public one, and the one at which clouds tell their machines' secrets.

make_outside() {
  mkdir -p "$STATE/outside"
  setsid unshare --net python3 outside/serve.py "$STATE/outside" "${OUTSIDE_PORTS[@]}" >"$STATE/outside.log" 2>&1 </dev/null 9>&- &
  echo $! >"$STATE/outside.pid"
  wait_for "the network namespace of the host outside" has_own_network "$!"
  ip link add "$BRIDGE-outside" type veth peer name eth0 netns "$!"
  ip link set "$BRIDGE-outside" master "$BRIDGE" up
  outside ip address add "$OUTSIDE_GATEWAY/24" dev eth0
  outside ip link set eth0 up
  outside ip link set lo up
  local address
  for address in "${OUTSIDE_ADDRESSES[@]}"; do outside ip address add "$address/32" dev lo; done
  wait_for "the host outside" outside_answers
}

has_own_network() { [[ "$(readlink "/proc/$1/ns/net")" != "$(readlink /proc/self/ns/net)" ]]; }

outside() { nsenter --target "$(cat "$STATE/outside.pid")" --net -- "$@"; }

outside_answers() { outside python3 -c "import socket; [socket.create_connection(('127.0.0.1', port), 2) for port in (${OUTSIDE_PORTS[0]}, ${OUTSIDE_PORTS[1]})]"; }

remove_outside() {
  local pid
  if pid="$(cat "$STATE/outside.pid" 2>/dev/null)" && grep -q "outside/serve.py" "/proc/$pid/cmdline" 2>/dev/null; then
    kill -KILL "$pid"
    wait_for "the end of the host outside" gone "$pid"
  fi
  wait_for "the end of $BRIDGE-outside" link_removed "$BRIDGE-outside"
  rm -rf "$STATE/outside" "$STATE/outside.log" "$STATE/outside.pid"
}
