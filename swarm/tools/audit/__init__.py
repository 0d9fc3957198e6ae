"""Code health of a source tree: complexity, maintainability and size, measured by the fleet. The figures are radon's."""
