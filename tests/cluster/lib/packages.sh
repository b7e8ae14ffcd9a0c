# What comes from the distribution: the container runtime, and the tools that Kubernetes and Calico call.

# install_packages: installs them where apt is, and says what is missing where it is not.
install_packages() {
  local missing=() program
  for program in containerd ctr runc iptables ipset conntrack openssl ip nsenter unshare; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  find_cni_plugins || missing+=("CNI plugins")
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null || die "missing: ${missing[*]}. Install containerd, runc, the CNI plugins, iptables, ipset, conntrack, openssl and iproute2"
  say "installing what is missing: ${missing[*]}"
  apt-get -o DPkg::Lock::Timeout=300 update -qq
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends \
    containerd runc containernetworking-plugins iptables ipset conntrack openssl iproute2 >/dev/null
  find_cni_plugins
}

find_cni_plugins() {
  for CNI_PLUGINS in /usr/lib/cni /opt/cni/bin; do
    [[ ! -x $CNI_PLUGINS/portmap ]] || return 0
  done
  return 1
}
