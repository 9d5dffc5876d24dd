# The two commands a newcomer needs are `make demo` and `make test`. All logic is in xtask and in the programs.
PREFIX ?= /usr/local
CARGO ?= cargo

.PHONY: build demo test bench soak fuzz install clean-host

build:
	$(CARGO) xtask packages
	$(CARGO) xtask build

demo: build
	demo/tour.sh

test:
	$(CARGO) xtask ci

bench: build
	$(CARGO) run --quiet --release --package insula-bench -- $(NAME)

# Seconds of random operations and random deaths.
INSULA_SOAK_SECONDS ?= 600
soak: build
	INSULA_SOAK_SECONDS=$(INSULA_SOAK_SECONDS) INSULA_PROGRAMS=$(CURDIR)/target/release \
		$(CARGO) test --package insula-testkit --test soak -- --nocapture

# So long, property tests of what reads foreign bytes are repeated with new seeds.
SECONDS ?= 60
fuzz:
	$(CARGO) xtask fuzz $(SECONDS)

# The folder with the programs to install; `target/release`, built first, when it is not said.
PROGRAMS ?=
programs := $(or $(PROGRAMS),target/release)
share := $(DESTDIR)$(PREFIX)/share
lib := $(DESTDIR)$(PREFIX)/lib
install: $(if $(PROGRAMS),,build)
	install -d $(DESTDIR)$(PREFIX)/bin $(lib)/systemd/system $(lib)/sysusers.d $(DESTDIR)/etc/insula \
		$(share)/bash-completion/completions $(share)/zsh/site-functions $(share)/fish/vendor_completions.d
	install -m 0755 $(addprefix $(programs)/,insula insula-guest insula-init insula-keeper insula-launcher) $(DESTDIR)$(PREFIX)/bin/
	sed 's|@PREFIX@|$(PREFIX)|' packaging/insula.service > $(lib)/systemd/system/insula.service
	install -m 0644 packaging/insula.slice $(lib)/systemd/system/
	install -m 0644 packaging/insula.sysusers $(lib)/sysusers.d/insula.conf
	test -e $(DESTDIR)/etc/insula/node.toml || install -m 0644 packaging/node.toml $(DESTDIR)/etc/insula/
	$(programs)/insula completions bash > $(share)/bash-completion/completions/insula
	$(programs)/insula completions zsh > $(share)/zsh/site-functions/_insula
	$(programs)/insula completions fish > $(share)/fish/vendor_completions.d/insula.fish
	$(programs)/insula man $(share)/man/man1
	if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemd-sysusers insula.conf && systemctl daemon-reload; fi

clean-host:
	$(CARGO) xtask clean-host
