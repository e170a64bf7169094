# Two commands do everything: `make demo` and `make test`.
PYTHON ?= $(shell for p in /usr/bin/python3 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)
VENV := .venv
STORE := demo/store

.PHONY: demo test lint clean

demo: $(VENV)/installed
	@$(VENV)/bin/python fixtures/base/image.py busybox $(STORE) docker.io/library/busybox:latest .cache/base
	@$(VENV)/bin/assemble build --store $(STORE) -t demo -o type=oci,dest=demo/image,tar=false --metadata-file demo/metadata.json fixtures/demo
	@echo
	@$(VENV)/bin/assemble inspect --store $(STORE) demo/image
	@echo
	@echo "The image is an OCI layout in demo/image. Run 'make demo' again: everything is cached."

test:
	@PYTHON="$(PYTHON)" sh tests/run.sh

lint: $(VENV)/tested
	$(VENV)/bin/pytest -q tests/test_linters.py tests/test_architecture.py

$(VENV)/installed: pyproject.toml
	@PYTHON="$(PYTHON)" sh tests/venv.sh $(VENV) .
	@touch $@

$(VENV)/tested: pyproject.toml
	@PYTHON="$(PYTHON)" sh tests/venv.sh $(VENV) '.[test]'
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@if [ -d demo ]; then chmod -R u+rwX demo 2>/dev/null; rm -rf demo; fi
