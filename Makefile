.DEFAULT_GOAL := help
.PHONY: help run test check bench soak audit tools image charts e2e

help: ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## everything on this machine, without Redis or a cluster
	cargo run

tools: ## install what the tests need and the machine lacks
	.ci/tools

test: tools ## all tests, on a real redis-server
	cargo test --workspace --locked

check: ## formatting, lints, documentation
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy -p local --features image --bin tiebar --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Named together each time: features are united over what is named, and other features are another build of everything.
MEASURED = -p instance -p upstream -p loadgen -p operator -p ui -p tiebar

bench: tools ## the benchmarks, as one table in target/bench.json
	.ci/bench-tools
	.ci/image
	rm -f target/bench*.json
	cargo build --release --locked $(MEASURED) --bins --bench cold --bench viewers --bench peers
	cargo bench --locked $(MEASURED) --bench cold
	cargo bench --locked $(MEASURED) --bench viewers
	cargo bench --locked $(MEASURED) --bench peers

soak: tools ## mixed faults under load for SOAK_MINUTES (10); ends with a table of what adds up
	cargo run --locked -p tests --example soak

audit: ## known vulnerabilities in the dependencies; fetches the RustSec database
	cargo deny check advisories

image: ## the container image, as target/tiebar-image.tar
	.ci/image

charts: ## generate the charts' tables and CRD, then check the charts
	.ci/charts fix
	.ci/charts

e2e: ## the charts on a real one-node cluster of this machine, as root
	.ci/e2e
