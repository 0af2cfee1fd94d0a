#!/usr/bin/env bash
# Installs what the tests of two hosts need, where that is possible, and says plainly whether they will run.
#
# Never fails: without root, apt or network those tests are skipped, and everything else is tested all the same.
set -uo pipefail

will_skip() { echo "two-host tests: will be skipped: $*"; exit 0; }

# Tools of administrators are not on everybody's PATH.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

missing_tools() {
  local tool
  for tool in ip nsenter pdsh setpriv ssh ssh-keygen sshd unshare; do
    command -v "$tool" >/dev/null 2>&1 || echo -n "$tool "
  done
}

[[ "$(uname -s)" == Linux ]] || will_skip "they need Linux's namespaces, this is $(uname -s)"
[[ "$(id -u)" == 0 ]] || will_skip "they need root, to make namespaces"

if [[ -n "$(missing_tools)" ]] && command -v apt-get >/dev/null 2>&1; then
  echo "two-host tests: installing openssh-server, pdsh and iproute2"
  export DEBIAN_FRONTEND=noninteractive
  { timeout 120 apt-get update -qq && timeout 300 apt-get install -qq --yes --no-install-recommends \
      openssh-client openssh-server pdsh iproute2 util-linux procps; } >/dev/null 2>&1 ||
    echo "two-host tests: apt-get could not install them"
fi

missing="$(missing_tools)"
[[ -z "$missing" ]] || will_skip "missing: $missing"
unshare --net --uts --mount --ipc --pid --fork --kill-child --mount-proc \
    sh -c 'ip link add eth0 type veth peer name eth1 && mount -t tmpfs tmpfs /run' >/dev/null 2>&1 ||
  will_skip "this machine does not allow namespaces with a network of their own"
echo "two-host tests: will run"
