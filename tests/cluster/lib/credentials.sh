# Who may speak to the API server: keys, tokens and kubeconfigs, made anew at each start. They never leave the state folder.

USERS=(admin controller-manager scheduler proxy calico)

# identity USER: the name and groups that its token stands for.
identity() {
  case "$1" in
    admin) echo 'admin,admin,"system:masters"' ;;
    controller-manager) echo 'system:kube-controller-manager,controller-manager' ;;
    scheduler) echo 'system:kube-scheduler,scheduler' ;;
    proxy) echo 'system:kube-proxy,proxy' ;;
    calico) echo 'calico,calico' ;;
  esac
}

# make_credentials: of the control plane, and of each node what its parts need.
make_credentials() {
  local first="$NODE_STATE/credentials" user number
  mkdir -m 700 "$first"
  (cd "$first" && make_keys)
  for user in "${USERS[@]}"; do make_user "$user" "$(identity "$user")" "$first/$user.kubeconfig"; done
  for number in "${NODES[@]}"; do
    on_node "$number"
    if [[ $NODE_STATE/credentials != "$first" ]]; then
      mkdir -m 700 "$NODE_STATE/credentials"
      cp "$first"/{authority.crt,proxy.kubeconfig,calico.kubeconfig} "$NODE_STATE/credentials/"
    fi
    make_user kubelet "system:node:$NODE_NAME,$NODE_NAME,\"system:nodes\"" "$NODE_STATE/credentials/kubelet.kubeconfig"
  done
  on_node 0
}

make_user() { # make_user NAME IDENTITY KUBECONFIG
  local token
  token="$(openssl rand -hex 32)"
  printf '%s,%s\n' "$token" "$2" >>"$first/tokens.csv"
  make_kubeconfig "$1" "$token" "$first/authority.crt" >"$3"
}

make_keys() {
  local service_address="${SERVICE_RANGE%.*}.1" service=kubernetes.default.svc
  umask 077
  openssl ecparam -genkey -noout -name prime256v1 -out service-accounts.key
  openssl req -x509 "${NEW_KEY[@]}" -keyout authority.key -out authority.crt -subj /CN=kernelbox-test \
    -addext keyUsage=keyCertSign 2>/dev/null
  certificate apiserver /CN=kubernetes \
    "subjectAltName=IP:$NODE_ADDRESS,IP:$service_address,IP:127.0.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:$service,DNS:$service.cluster.local"
  certificate kubelet-client /O=system:masters/CN=kube-apiserver extendedKeyUsage=clientAuth
}

NEW_KEY=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365)

certificate() { # certificate NAME SUBJECT EXTENSION: signed by the authority
  openssl req -x509 "${NEW_KEY[@]}" -CA authority.crt -CAkey authority.key \
    -keyout "$1.key" -out "$1.crt" -subj "$2" -addext basicConstraints=critical,CA:FALSE -addext "$3" 2>/dev/null
}

make_kubeconfig() { # make_kubeconfig USER TOKEN AUTHORITY
  cat <<END
apiVersion: v1
kind: Config
clusters:
- name: kernelbox-test
  cluster:
    server: $API_SERVER
    certificate-authority-data: $(base64 -w0 "$3")
users:
- name: $1
  user: {token: $2}
contexts:
- name: kernelbox-test
  context: {cluster: kernelbox-test, user: $1}
current-context: kernelbox-test
END
}
