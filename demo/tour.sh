#!/usr/bin/env bash
# The tour: a private node, two versions of a real Debian image, containers, an upgrade, a failed one, the way back.
set -eu
programs=${INSULA_PROGRAMS:-$(cd "$(dirname "$0")/../target/release" && pwd)}
work=$(mktemp -d /var/tmp/insula-demo-XXXXXX)
export PATH=$programs:$PATH INSULA_SOCKET=$work/run/insula.sock
finish() {
	insula list -q 2>/dev/null | xargs -r insula delete --force >/dev/null || true
	kill "$node" 2>/dev/null && wait "$node" || true
	chattr -R -f -i "$work" || true
	rm -rf "$work"
}
say() { printf '\n# %s\n' "$*"; }
show() { # the command as one would type it, then what it does
	printf '$'
	for word; do case $word in *[!a-zA-Z0-9@:=./,_-]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac; done
	echo && "$@"
}

insula node run --name demo --state-dir "$work/state" --run-dir "$work/run" >"$work/log" 2>&1 &
node=$!
trap finish EXIT
until [ -S "$INSULA_SOCKET" ]; do kill -0 "$node"; sleep 0.1; done
cd "$(dirname "$0")/.."

say "A Debian image is built from a recipe; the second version is the first one and a command that installs curl"
show insula image build demo/images/debian-12.1.toml
show insula image build demo/images/debian-12.2.toml
show insula image list
say "Only what passed its own checks gets into production"
show insula image promote debian@12.2 || true
show insula image test debian@12.2 && show insula image promote debian@12.2
say "One command in a container of its own, its root read-only"
show insula run --rm debian@12.1 sh -c 'id; cat /etc/demo-version; touch /usr/x || true'
say "Ten web servers on the one image; what they keep is in /data"
for n in $(seq 10); do insula run -d --name "web$n" debian@12.1 >/dev/null; done
insula exec web1 sh -c 'echo "hello from /data" > /data/index.html'
show insula list
say "libc's text, summed over all containers, in KiB: one copy is shared by all"
pids=$(insula list --format json | grep -o '"pid": *[0-9]*' | grep -o '[0-9]*')
for pid in $pids; do cat /proc/$(pgrep -P "$pid" | head -1)/smaps; done | awk '/libc.so/ {on=/r-xp/} /^[0-9a-f]+-/ {if (!/libc.so/) on=0} on && /^Pss:/ {sum+=$2} END {print sum " KiB"}'
say "An upgrade is a property and a restart; /data stays"
show insula upgrade web1 --image debian@12.2 --health 'curl --silent --fail http://localhost/'
show insula exec web1 cat /etc/demo-version /data/index.html
say "A version that does not become healthy is taken back by itself, with the reason"
show insula upgrade web2 --image debian@12.2 --health false --deadline 2 || true
show insula exec web2 cat /etc/demo-version
say "And back by hand"
show insula rollback web1 && show insula exec web1 cat /etc/demo-version
