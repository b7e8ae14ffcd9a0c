# The control plane: etcd, API server, controllers, scheduler. They run in the first node.

start_etcd() {
  # Nothing here outlives a crash of the machine, so that nothing need wait for the disk.
  launch etcd etcd --data-dir "$INSIDE/etcd" --unsafe-no-fsync --logger zap --log-level warn
}

start_apiserver() {
  local keys="$INSIDE/credentials"
  cat >"$NODE_STATE/audit-policy.yaml" <<END
# Writes alone: tests count them.
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, verbs: [create, update, patch, delete, deletecollection]}
- {level: None}
END
  launch kube-apiserver kube-apiserver \
    --etcd-servers http://127.0.0.1:2379 --advertise-address "$NODE_ADDRESS" --allow-privileged \
    --tls-cert-file "$keys/apiserver.crt" --tls-private-key-file "$keys/apiserver.key" \
    --token-auth-file "$keys/tokens.csv" --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --service-cluster-ip-range "$SERVICE_RANGE" \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-key-file "$keys/service-accounts.key" --service-account-signing-key-file "$keys/service-accounts.key" \
    --kubelet-preferred-address-types InternalIP \
    --kubelet-client-certificate "$keys/kubelet-client.crt" --kubelet-client-key "$keys/kubelet-client.key" \
    --audit-policy-file "$INSIDE/audit-policy.yaml" --audit-log-path "$INSIDE/logs/audit.log" \
    --audit-log-maxsize 100 --audit-log-maxbackup 1
}

start_controller_manager() {
  local keys="$INSIDE/credentials"
  launch kube-controller-manager kube-controller-manager --kubeconfig "$keys/controller-manager.kubeconfig" \
    --service-account-private-key-file "$keys/service-accounts.key" --root-ca-file "$keys/authority.crt" \
    --use-service-account-credentials --allocate-node-cidrs --cluster-cidr "$POD_RANGE" \
    --service-cluster-ip-range "$SERVICE_RANGE" --leader-elect=false --flex-volume-plugin-dir "$INSIDE/kubelet/plugins"
}

start_scheduler() {
  launch kube-scheduler kube-scheduler --kubeconfig "$INSIDE/credentials/scheduler.kubeconfig" --leader-elect=false
}

apiserver_ready() { kubectl get --raw /readyz; }
