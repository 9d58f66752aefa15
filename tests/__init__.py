"""A package, because a package of that name that somebody else installs (opensimplex does) would be found first."""
