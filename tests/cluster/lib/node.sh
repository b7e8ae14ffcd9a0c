# What makes a machine a node: containerd, kubelet, kube-proxy, and Calico, which gives pods their addresses and policies.

start_containerd() {
  cat >"$NODE_STATE/containerd.toml" <<END
version = 2
root = "$INSIDE/containerd"
state = "/run/containerd"
[grpc]
address = "$SOCKET"
[plugins."io.containerd.internal.v1.opt"]
path = "$INSIDE/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "$PAUSE_IMAGE"
# Where root may not lower the score, runc would fail to.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "$INSIDE/cni/bin"
conf_dir = "$INSIDE/cni/conf"
END
  launch containerd containerd --config "$INSIDE/containerd.toml"
}

containerd_ready() { inside ctr --address "$SOCKET" --timeout 2s version; }

write_cni() {
  local plugin
  mkdir -p "$NODE_STATE"/cni/{bin,conf}
  for plugin in host-local loopback portmap; do ln -s "$CNI_PLUGINS/$plugin" "$NODE_STATE/cni/bin/"; done
  ln -s "$INSIDE/cache/bin/calico" "$NODE_STATE/cni/bin/"
  cat >"$NODE_STATE/cni/conf/10-calico.conflist" <<END
{
  "name": "pods", "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "calico", "datastore_type": "kubernetes", "nodename": "$NODE_NAME", "nodename_file_optional": true,
      "log_level": "warning", "mtu": 1500,
      "ipam": {"type": "host-local", "subnet": "usePodCidr"},
      "policy": {"type": "k8s"},
      "kubernetes": {"kubeconfig": "$INSIDE/credentials/calico.kubeconfig"}
    },
    {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}
  ]
}
END
}

start_kubelet() {
  cat >"$NODE_STATE/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $INSIDE/credentials/authority.crt}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$NODE_CGROUP
failCgroupV1: false
failSwapOn: false
clusterDNS: [$DNS_ADDRESS]
clusterDomain: cluster.local
resolvConf: ""
containerRuntimeEndpoint: unix://$SOCKET
volumePluginDir: $INSIDE/kubelet/plugins
maxPods: 250
# The disk is shared with all else, and an image that is thrown away cannot be pulled again.
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%, imagefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
END
  launch kubelet kubelet --config "$INSIDE/kubelet.yaml" --root-dir "$INSIDE/kubelet" --cert-dir "$INSIDE/kubelet/pki" \
    --kubeconfig "$INSIDE/credentials/kubelet.kubeconfig" --hostname-override "$NODE_NAME" --node-ip "$NODE_ADDRESS"
}

start_proxy() {
  # Connection tracking belongs to the whole machine: its limits are left as they are.
  launch kube-proxy kube-proxy --kubeconfig "$INSIDE/credentials/proxy.kubeconfig" --hostname-override "$NODE_NAME" \
    --proxy-mode iptables --cluster-cidr "$POD_RANGE" \
    --conntrack-max-per-core 0 --conntrack-tcp-timeout-established 0s --conntrack-tcp-timeout-close-wait 0s
}

start_felix() {
  local PART_ENVIRONMENT=(
    KUBECONFIG="$INSIDE/credentials/calico.kubeconfig" FELIX_DATASTORETYPE=kubernetes FELIX_FELIXHOSTNAME="$NODE_NAME"
    FELIX_IPV6SUPPORT=false FELIX_BPFENABLED=false FELIX_USAGEREPORTINGENABLED=false FELIX_HEALTHENABLED=true
    FELIX_LOGFILEPATH=none FELIX_LOGSEVERITYSCREEN=warning
    # A pod may reach its node unless a policy forbids it.
    FELIX_DEFAULTENDPOINTTOHOSTACTION=ACCEPT
  )
  # It ends when the machine's network changes, to be begun anew.
  launch calico-felix bash -c 'while :; do calico-felix; sleep 1; done'
}

felix_ready() {
  # shellcheck disable=SC2016 # The inner shell expands it.
  inside bash -c 'exec 3<>/dev/tcp/127.0.0.1/9099 && printf "GET /readiness HTTP/1.0\r\n\r\n" >&3 && read -r -t 2 line <&3 && [[ $line == *" 20"* ]]'
}

# tell_accelerators: the kubelet knows of none, and forgets what was said of the node when it begins anew.
tell_accelerators() {
  local path="${ACCELERATOR//\//~1}"
  kubectl patch node "$NODE_NAME" --subresource status --type json --patch "[
    {\"op\": \"add\", \"path\": \"/status/capacity/$path\", \"value\": \"$ACCELERATORS\"},
    {\"op\": \"add\", \"path\": \"/status/allocatable/$path\", \"value\": \"$ACCELERATORS\"}]" >/dev/null
  kubectl label --overwrite node "$NODE_NAME" "$ACCELERATOR.present=true" >/dev/null
  kubectl taint --overwrite node "$NODE_NAME" "$ACCELERATOR=present:NoSchedule" >/dev/null
}

# lay_routes: the way to this node's pods, from all other nodes and from this machine.
lay_routes() {
  local own="${NODE_NAME#node}" way number
  way=("$(pod_range)" via "$NODE_ADDRESS")
  ip route replace "${way[@]}"
  for number in "${NODES[@]}"; do
    on_node "$number"
    [[ $number == "$own" ]] || inside ip route replace "${way[@]}"
  done
  on_node "$own"
}

pod_range() { kubectl get node "$NODE_NAME" -o 'jsonpath={.spec.podCIDR}' | grep .; }

node_ready() { [[ "$(kubectl get node "$NODE_NAME" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" == True ]]; }
