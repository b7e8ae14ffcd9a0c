# Where the cluster lives and what its things are called. Sourced by the scripts beside it; the two folders can be overridden.

# Built programs and images are kept here between runs.
CACHE="${KERNELBOX_CLUSTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kernelbox/cluster}"
# All that a running cluster writes is here, and goes with it.
STATE="${KERNELBOX_CLUSTER_STATE:-/var/lib/kernelbox-cluster}"

# This machine and the nodes meet on a bridge. Services and pods are reached through the first node.
BRIDGE=kbx0
HOST_ADDRESS=10.99.0.1
SERVICE_RANGE=10.96.0.0/16
DNS_ADDRESS=10.96.0.10
POD_RANGE=10.244.0.0/16

# Nodes send all that is for nobody they know to a host outside. It has this address on the bridge, and public ones: documentation's.
OUTSIDE_GATEWAY=10.99.0.254
OUTSIDE_NAME=outside.kernelbox.test
OUTSIDE_ADDRESSES=(203.0.113.10 203.0.113.11 169.254.169.254)
OUTSIDE_PORTS=(80 8081)

# The first node has the control plane and takes all pods. The second one says that it has accelerators, and takes pods that ask for one.
NODES=(0 1)
ACCELERATOR=nvidia.com/gpu
ACCELERATORS=2
# on_node NUMBER: from now on it is meant. All that a node has of its own.
on_node() {
  NODE_NAME="node$1"
  NODE_ADDRESS="10.99.0.$((2 + $1))"
  NODE_STATE="$STATE/$NODE_NAME"
  NODE_CGROUP="kernelbox-cluster/$NODE_NAME"
}
on_node 0

# A node sees its state folder at one fixed place, whatever it is called outside.
INSIDE=/mnt
SOCKET="$INSIDE/containerd.sock"
API_SERVER="https://10.99.0.2:6443"

PAUSE_IMAGE=kernelbox.test/pause:1
PROBE_IMAGE=kernelbox.test/probe:1
COREDNS_IMAGE=kernelbox.test/coredns:1
DIFFUSION_IMAGE=kernelbox.test/diffusion:1

# Seconds that one call of kubectl, and one condition waited for, may take.
CALL_LIMIT=20
WAIT_LIMIT=60
