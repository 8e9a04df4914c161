# Writes the numbers that the tests of crates/random expect of R's "L'Ecuyer-CMRG", as the installed R gives them:
#
#     Rscript tools/random_vectors.R > crates/random/tests/data/r.txt
#
# Each line is one case, in fields between semicolons: what it is; the seed; the numbers. `seed` is the state after
# set.seed, `runif` what is drawn then, and `moved` the state after that. `stream n` and `substream n` are the states
# after so many steps of nextRNGStream and nextRNGSubStream, `both` is a substream of a stream.

suppressPackageStartupMessages(library(parallel))
RNGkind("L'Ecuyer-CMRG")

show <- function(what, seed, numbers) {
  cat(what, ";", format(seed, scientific = FALSE), ";", paste(numbers, collapse = " "), "\n", sep = "")
}

repeated <- function(step, state, n) {
  for (i in seq_len(n)) state <- step(state)
  state[-1]
}

cat("# tools/random_vectors.R has written this, with ", R.version.string, ".\n", sep = "")
for (seed in c(0L, 1L, 42L, 123456789L, -1L, -2147483647L, 2147483647L)) {
  set.seed(seed)
  state <- .Random.seed
  show("seed", seed, state[-1])
  show("runif", seed, sprintf("%.17f", runif(3)))
  show("moved", seed, .Random.seed[-1])
  for (n in c(1, 2, 3, 1000)) {
    show(paste("stream", n), seed, repeated(nextRNGStream, state, n))
    show(paste("substream", n), seed, repeated(nextRNGSubStream, state, n))
  }
  show("both", seed, nextRNGSubStream(nextRNGStream(state))[-1])
}
