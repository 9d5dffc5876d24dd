# The two commands a newcomer needs are `make demo` and `make test`. All logic is in xtask and in the programs.
PREFIX ?= /usr/local
CARGO ?= cargo

.PHONY: build demo test bench soak install clean-host

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

install: build
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)/etc/insula
	install -m 0755 target/release/insula target/release/insula-guest target/release/insula-init \
		target/release/insula-keeper target/release/insula-launcher $(DESTDIR)$(PREFIX)/bin/
	sed 's|@PREFIX@|$(PREFIX)|' packaging/insula.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/insula.service

clean-host:
	$(CARGO) xtask clean-host
