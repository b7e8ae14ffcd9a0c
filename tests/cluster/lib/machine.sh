# A node's namespaces: processes, mounts, network and host name of its own. All that a node does to its machine it does in
# there, so that this machine is not changed and all goes with the namespaces' first process. Outside remain one bridge,
# one cgroup and the state folder.

# running: is the node there? Its first process is known by its id and by its namespace, as ids are used again.
running() {
  local pid namespace
  read -r pid namespace 2>/dev/null <"$NODE_STATE/init" || return 1
  [[ "$(readlink "/proc/$pid/ns/pid" 2>/dev/null)" == "$namespace" ]]
}

# started: is the whole cluster there? A start that was cut off leaves no kubeconfig.
started() { running && [[ -e $STATE/kubeconfig ]]; }

init_pid() { cut -d' ' -f1 "$NODE_STATE/init"; }

# inside COMMAND...: runs it in the node.
inside() { nsenter --target "$(init_pid)" --pid --mount --net --uts --wdns="$INSIDE" -- "$@"; }

# launch NAME COMMAND...: starts a part of the node that goes on after this script. Its log is in logs/, its id in pids/.
launch() {
  local name="$1"
  shift
  # shellcheck disable=SC2016 # The inner shell expands these.
  inside env -i PATH="$INSIDE/cache/bin:$PATH" HOME="$INSIDE" "${PART_ENVIRONMENT[@]}" \
    bash -c 'name="$1"; shift; setsid "$@" >>"logs/$name.log" 2>&1 </dev/null 9>&- & echo $! >"pids/$name"' launch "$name" "$@"
}
PART_ENVIRONMENT=()

# alive NAME: is that part running?
alive() { inside kill -0 "$(cat "$NODE_STATE/pids/$1")" 2>/dev/null; }

make_bridge() {
  [[ ! -e /sys/class/net/$BRIDGE ]] || die "there is a network device $BRIDGE already: another cluster's? Stop it where it was started"
  ip link add "$BRIDGE" type bridge
  ip address add "$HOST_ADDRESS/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
}

remove_bridge() { wait_for "the end of $BRIDGE" link_removed "$BRIDGE"; }

# link_removed NAME: the kernel removes those of an ended namespace too, at a time of its own.
link_removed() {
  ip link delete "$1" || true
  [[ ! -e /sys/class/net/$1 ]]
}

# make_machine: the namespaces, and a cable from them to the bridge.
make_machine() {
  mkdir -p "$NODE_STATE"/{logs,pids,tmp,var,cache}
  setsid unshare --fork --pid --mount --net --uts --propagation private \
    ./node-init "$NODE_STATE" "$INSIDE" "$CACHE" "$NODE_NAME" >"$NODE_STATE/logs/init.log" 2>&1 </dev/null 9>&- &
  wait_for "the namespaces of $NODE_NAME" running
  ip link add "$BRIDGE-$NODE_NAME" type veth peer name eth0 netns "$(init_pid)"
  ip link set "$BRIDGE-$NODE_NAME" master "$BRIDGE" up
  inside ip address add "$NODE_ADDRESS/24" dev eth0
  inside ip link set eth0 up
  # It leads to the host outside, and no further: nothing leaves this machine.
  inside ip route add default via "$OUTSIDE_GATEWAY"
}

# remove_machine: kills all in it at once, which is what becomes of children when a namespace's first process is killed.
remove_machine() {
  if running; then
    local pid
    pid="$(init_pid)"
    kill -KILL "$pid"
    wait_for "the end of $NODE_NAME's processes" gone "$pid"
  fi
  wait_for "the end of $BRIDGE-$NODE_NAME" link_removed "$BRIDGE-$NODE_NAME"
}

gone() { [[ ! -e /proc/$1 ]]; }
