# Who may speak to the API server: keys, tokens and kubeconfigs, made anew at each start. They never leave the state folder.

USERS=(admin controller-manager scheduler kubelet proxy calico)

# identity USER: the name and groups that its token stands for.
identity() {
  case "$1" in
    admin) echo 'admin,admin,"system:masters"' ;;
    controller-manager) echo 'system:kube-controller-manager,controller-manager' ;;
    scheduler) echo 'system:kube-scheduler,scheduler' ;;
    kubelet) echo "system:node:$NODE_NAME,$NODE_NAME,\"system:nodes\"" ;;
    proxy) echo 'system:kube-proxy,proxy' ;;
    calico) echo 'calico,calico' ;;
  esac
}

make_credentials() {
  local folder="$NODE_STATE/credentials" user token
  mkdir -m 700 "$folder"
  (cd "$folder" && make_keys)
  for user in "${USERS[@]}"; do
    token="$(openssl rand -hex 32)"
    printf '%s,%s\n' "$token" "$(identity "$user")" >>"$folder/tokens.csv"
    make_kubeconfig "$user" "$token" >"$folder/$user.kubeconfig"
  done
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

make_kubeconfig() { # make_kubeconfig USER TOKEN
  cat <<END
apiVersion: v1
kind: Config
clusters:
- name: kernelbox-test
  cluster:
    server: $API_SERVER
    certificate-authority-data: $(base64 -w0 "$NODE_STATE/credentials/authority.crt")
users:
- name: $1
  user: {token: $2}
contexts:
- name: kernelbox-test
  context: {cluster: kernelbox-test, user: $1}
current-context: kernelbox-test
END
}
