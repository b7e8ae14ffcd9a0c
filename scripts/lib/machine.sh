# How this machine reaches package servers: asked of its own programs, handed to a build as secrets, and never kept.

SECRETS=/run/secrets # Where a build finds them.

# machine_settings FOLDER: writes there what a build needs, each file only if there is something to say.
machine_settings() {
  local certificates
  apt_settings >"$1/apt.conf"
  pip_settings >"$1/pip.conf"
  certificates="$(certificate_file)"
  [[ -z $certificates ]] || cp "$certificates" "$1/certificates"
  find "$1" -type f -empty -delete
}

# apt_settings: proxies, and what is needed for mirrors that sign otherwise than Debian does.
apt_settings() {
  command -v apt-config >/dev/null || return 0
  apt-config dump | sed -nE "s|^(Acquire::https::CAInfo) .*|\1 \"$SECRETS/certificates\";|p; t
    /^Acquire::(https?::(Proxy|Timeout)|Check-Valid-Until|Check-Date|Retries)/p"
}

# pip_settings: which index, and how to get there. pip lists "global.index-url='...'", or ":env:.index-url='...'".
pip_settings() {
  local settings
  settings="$(python3 -m pip config list 2>/dev/null)" || return 0
  [[ -n $settings ]] || return 0
  echo "[global]"
  sed -nE "s|^[a-z:]+\.cert=.*|cert = $SECRETS/certificates|p; t
    s/^[a-z:]+\.(default-)?(index-url|extra-index-url|trusted-host|proxy|timeout)='(.*)'\$/\2 = \3/p" <<<"$settings" | LC_ALL=C sort -u
}

# certificate_file: the authorities that this machine trusts.
certificate_file() {
  local file
  for file in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
    [[ ! -f $file ]] || { echo "$file"; return; }
  done
}
