# The gateway's volume, on the first node: nobody here makes volumes when they are claimed.

# own_cluster: where KUBECONFIG names no other, it is the cluster that runs here, and it needs the volume.
own_cluster() {
  [[ -z "${KUBECONFIG:-}" ]] || return 0
  started || die "no cluster is running here (make cluster), and KUBECONFIG is not set"
  export KUBECONFIG="$STATE/kubeconfig"
  # shellcheck disable=SC2034 # Whoever calls this reads it.
  volume=yes
}

make_volume() {
  mkdir -p "$NODE_STATE/volumes/gateway"
  kubectl apply -f - >/dev/null <<END
apiVersion: v1
kind: PersistentVolume
metadata: {name: gateway}
spec:
  capacity: {storage: 20Gi}
  accessModes: [ReadWriteOnce]
  local: {path: $INSIDE/volumes/gateway}
  nodeAffinity:
    required:
      nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$NODE_NAME]}]}]
END
}

# remove_volume: with all that is in it.
remove_volume() {
  kubectl delete persistentvolume gateway --ignore-not-found >/dev/null
  rm -rf "$NODE_STATE/volumes/gateway"
}
