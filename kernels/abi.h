/*
 * The boundary between the host and the kernels, and its only writer: the kernels include this
 * file, and `cargo xtask codegen` turns it into src/abi.rs. Plain C, <stdint.h> alone.
 *
 * Sizes and strides count elements unless a name says otherwise. A pointer is a device address.
 */
#ifndef SMOOTHXENT_ABI_H
#define SMOOTHXENT_ABI_H

#include <stdint.h>

/* Width of one vector access to logits or gradients. */
#define XENT_PACK_BYTES 16

/* Packs of a thread that are compared with the maximum at once, wherever the row is: its sums depend on when that
   is raised. What is kept of a row is a multiple of that for each thread, or all of it. */
#define XENT_PACKS_AT_ONCE 2

/* Largest number of classes: positions within a row are 32-bit in the kernels. */
#define XENT_MAX_CLASSES 1073741824u

/* Threads of a block of the strategies that give a row to a warp, or to a part of one. */
#define XENT_WARP_BLOCK_THREADS 128u

/* Largest block of the strategies that give a row, or a slice of one, to a block. */
#define XENT_MAX_BLOCK_THREADS 384u

/* 16-byte packs of a row that a lane keeps in registers, at most; the same where as many of a second matrix
   are beside them, and of target probabilities, whose arithmetic needs more registers; and the fewest lanes of a
   row. */
#define XENT_WARP_PACKS 16u
#define XENT_WARP_PACKS_OF_TWO 8u
#define XENT_WARP_PACKS_OF_PROBABILITIES 4u
#define XENT_FEWEST_WARP_LANES 8u

/* tiny: a warp's tile is a whole number of so many packs, as many as all banks of shared memory hold. */
#define XENT_TINY_TILE_PACKS 8u

/* Most blocks of a cluster that every GPU with clusters can place. */
#define XENT_MAX_CLUSTER 8u

/* Most slices of a row under split_row: a warp merges them, a lane each. */
#define XENT_MAX_SLICES 32u

/* Partial results in a workspace: the most rows times slices under split_row. */
#define XENT_MAX_PARTIALS 1024u

/* Most rows of which a kernel finds the divisors by itself, a warp's reads of the targets. */
#define XENT_MAX_COUNTED_ROWS 256u

/* Static shared memory of the block and cluster kernels, at most; the rest of the device's limit can hold
   the row. */
#define XENT_BLOCK_STATIC_SHARED_BYTES 1024u

/* Rows whose losses are summed together; part of the definition of the scalar loss's last bits. */
#define XENT_CHUNK_ROWS 512u

/* Threads of one block of the normalizer kernel, and rows that it counts at once. */
#define XENT_NORMALIZER_THREADS 1024u
#define XENT_NORMALIZER_ROWS 8192u

/* Type of the targets: class indices, then probabilities. */
enum XentTargetType {
    XENT_TARGET_I32 = 0,
    XENT_TARGET_U32 = 1,
    XENT_TARGET_I64 = 2,
    XENT_TARGET_F32 = 3,
    XENT_TARGET_F16 = 4,
    XENT_TARGET_BF16 = 5
};

/* Where the reciprocal of a divisor comes from. */
enum XentDivisorSource {
    /* The host knew it. */
    XENT_DIVISOR_GIVEN = 0,
    /* The rows that are not ignored. */
    XENT_DIVISOR_COUNTED_ROWS = 1,
    /* The sum of the class weights of the targets of those rows. */
    XENT_DIVISOR_TARGET_WEIGHTS = 2
};

/* One number for each term of the loss. */
struct XentTerms {
    /* -log p_y. */
    float nll;
    /* The sum of all -log p_k. */
    float smoothing;
    /* lse^2. */
    float z_loss;
};

/* What the terms of a row are multiplied by, and divided by. */
struct XentDivided {
    /* 1 / D for each term. */
    struct XentTerms inverse_divisors;
    /* a / D1, b / D2, L / D3; a term that is not there is 0 whatever its divisor. */
    struct XentTerms term_weights;
};

/*
 * From stored logits x to z = scale * value, where value is x, or s tanh(t x / s) under a cap s.
 */
struct XentTransform {
    /* t, or 1 under a cap. */
    float scale;
    /* log2(e) * scale. */
    float exponent_scale;
    /* s, or 0 for no cap. */
    float softcap;
    /* t / s, or 0 without a cap. */
    float inner;
    /* t: dz / dx where tanh does not bend. */
    float slope;
};

/* Class indices, and which of them are to be ignored; or target probabilities. */
struct XentTargets {
    /* `rows` indices, or [rows, classes] probabilities. */
    const void *values;
    /* Compared before any other use of an index; any value. Meaningful if `has_ignore_index`. */
    int64_t ignore_index;
    /* From one row of probabilities to the next, at least `classes`. */
    uint64_t row_stride;
    /* An `XentTargetType`. */
    uint32_t kind;
    /* 0 or 1; 0 for probabilities. */
    uint32_t has_ignore_index;
};

/* Targets outside [0, classes) that kernels met since the host last took this record. All zero while there
   were none, so that zeroed memory is a record. */
struct XentStatus {
    /* How many. */
    uint64_t bad_targets;
    /* 2^64 - 1 less the lowest row among them, so that no row is 0 and lower rows are larger. */
    uint64_t rows_from_first;
    /* Target of that row. */
    int64_t first_target;
    /* Classes of the problem of that row. */
    uint64_t first_classes;
    /* Taken while a thread compares and replaces the three fields above; 0 between launches. */
    uint32_t lock;
    /* Keeps the size a multiple of 8; 0. */
    uint32_t reserved;
};

/* Head of the workspace. The whole workspace is zero before its first use. */
struct XentWorkspace {
    /* Sticky record of bad targets. */
    struct XentStatus status;
    /* Rows counted so far by the normalizer kernel; 0 between launches. */
    uint64_t counted_rows;
    /* Chunks of rows that the normalizer kernel has counted; 0 between launches. */
    uint32_t normalizer_ticket;
    /* Chunks of rows that are done; 0 between launches. */
    uint32_t chunk_ticket;
    /* Correct predictions so far; 0 between launches. */
    uint64_t correct;
    /* What the normalizer kernel found, if nothing is saved. */
    struct XentDivided divided;
};

/* What the backward pass has to know of a row's softmax, beside its logits. */
struct XentSavedRow {
    /* The largest value. */
    float max;
    /* The sum of the exponentials of all classes but the one that was kept apart: the target, or
       the one in `apart_and_exact`. */
    float others;
    /* The sum of the weights of the same classes in the smoothing term. */
    float mass;
    /* In the lowest bit, whether exponentials were formed with the exact shift; above, which class a
       row without a target kept apart, or XENT_NOTHING_APART. */
    uint32_t apart_and_exact;
};

/* No class, in XentSavedRow.apart_and_exact: more than XENT_MAX_CLASSES. */
#define XENT_NOTHING_APART 0x7fffffffu

/* Under split_row, what a block found out about its slice of a row. */
struct XentPartial {
    /* The largest value, the target apart. */
    float max;
    /* Sums over the slice's classes but the target, relative to `max`: softmax_state.cuh. */
    float sum;
    float shifted_sum;
    float mass;
    /* The target's value, in the slice that has it. */
    float target;
    /* The lowest class of the slice, the target apart, whose value is `max`. */
    uint32_t lowest;
    /* Keeps two partials in a sector of 32 bytes each; 0. */
    uint32_t reserved[2];
};

/* How the strategy in a kernel's name cuts the work, as the plan decided. */
struct XentGeometry {
    /* Consecutive rows of a warp, at least 32 / lanes_per_row; 1 but under warp and tiny. warp: it reports
       them together, a power of two up to 32, and takes further ones beyond the grid. tiny: all that it takes, a
       multiple of 32 / lanes_per_row. */
    uint64_t rows_per_warp;
    /* cluster, split_row: parts of a row, one a block. 1 elsewhere. */
    uint32_t slices;
    /* block, cluster: packs of a slice's aligned body that fit the launch's dynamic shared memory, with
       the weights of their elements for target probabilities: all, or a multiple of the block's threads.
       0 elsewhere. */
    uint32_t cached_packs;
    /* tiny, warp: lanes of a row, a power of two up to 32; of warp from XENT_FEWEST_WARP_LANES up, each with
       XENT_WARP_PACKS packs at most, or what is above for two matrices and for target probabilities. 0
       elsewhere. */
    uint32_t lanes_per_row;
    /* block: how many rows later the one is that a row's block asks the L2 cache for; 0 for none. */
    uint32_t rows_ahead;
};

/* Which launch of a strategy that takes two it is. */
enum XentPhase {
    /* The only one. */
    XENT_PHASE_WHOLE = 0,
    /* Partial results of all slices. */
    XENT_PHASE_PARTIALS = 1,
    /* Everything else, from the partial results or from what the forward pass saved. */
    XENT_PHASE_FINISH = 2
};

/* Where a kernel takes `XentDivided` from. */
enum XentDividedSource {
    /* The host knew it: `divided`. */
    XENT_DIVIDED_HOST = 0,
    /* `device_divided`, which an earlier launch wrote. */
    XENT_DIVIDED_DEVICE = 1,
    /* Every warp that needs it goes over the targets, at most XENT_MAX_COUNTED_ROWS. */
    XENT_DIVIDED_HERE = 2
};

/* What the terms are divided by, where the targets decide it. */
struct XentDivisors {
    /* An `XentDivisorSource` for each term. */
    uint32_t nll_source;
    uint32_t smoothing_source;
    uint32_t z_loss_source;
    /* 0 or 1: divisors of 0 have the reciprocal 0 instead of infinity. */
    uint32_t empty_is_zero;
    /* 1 / D where its source is XENT_DIVISOR_GIVEN. */
    struct XentTerms given;
    /* a, b, L. */
    struct XentTerms term_weights;
};

/*
 * What follows from the losses of single rows, in an order that depends on `rows` alone.
 */
struct XentRowSums {
    /* One element or null: the sum of all shares. */
    float *loss;
    /* One element or null: rows whose largest logit is the target's. */
    int64_t *correct;
    /* [rows]: each row's part of the loss on its way (ordered_sum.cuh); used if `loss` is not null, 0 between
       launches. */
    uint32_t *row_shares;
    /* [ceil(rows / XENT_CHUNK_ROWS)]: the same of sums over chunks. */
    uint32_t *chunk_sums;
    /* [ceil(rows / XENT_CHUNK_ROWS)]: rows of each chunk that are done; 0 between launches. */
    uint32_t *chunk_tickets;
    /* Status and tickets. */
    struct XentWorkspace *workspace;
    /* At least 1. */
    uint64_t rows;
};

/* Argument of `xent_normalizer`. */
struct XentNormalizer {
    /* The targets to count. */
    struct XentTargets targets;
    /* [classes] or null for 1. */
    const float *class_weights;
    /* [ceil(rows / XENT_NORMALIZER_ROWS)]: sums over as many rows each on their way (ordered_sum.cuh); 0 between
       launches. */
    uint32_t *chunk_sums;
    /* Tickets. */
    struct XentWorkspace *workspace;
    /* Where the result goes. */
    struct XentDivided *divided;
    /* Number of targets, at least 1. */
    uint64_t rows;
    /* What to find. */
    struct XentDivisors divisors;
    /* In 1..=XENT_MAX_CLASSES. */
    uint32_t classes;
    /* Keeps the size a multiple of 8; 0. */
    uint32_t reserved;
};

/*
 * Argument of `xent_fused_*`: per row i of `logits` x, with z = s tanh(t x / s) or t x,
 * lse = log sum_k exp(z_k), p = softmax(z), target y and weights u, v of the classes,
 *
 *     loss_i = a u_y (-log p_y) / D1 + b sum_k v_k (-log p_k) / D2 + L lse^2 / D3
 *     gradient_i[k] = g_i dloss_i / dx_k
 *
 * with a, b, L = term_weights and g_i the upstream gradient; or, for target probabilities q,
 *
 *     loss_i = sum_k (a u_k q_k + b v_k) (-log p_k) / D1 + L lse^2 / D3.
 *
 * Any output may be left out. With `saved` the logits are read once, for the gradient alone.
 */
struct XentFused {
    /* [rows, classes] in the kernel's dtype; row i starts at element i * logits_row_stride. */
    const void *logits;
    /* [rows, classes] in the kernel's dtype, or null; row i starts at element
       i * gradient_row_stride. May be `logits`, with the same stride. */
    void *gradient;
    /* Class indices, or probabilities, as the kernel's name says. */
    struct XentTargets targets;
    /* u: [classes] or null for 1. */
    const float *nll_weights;
    /* v: [classes] or null for 1. */
    const float *smoothing_weights;
    /* g_i is upstream[i * upstream_stride]; null means 1. */
    const float *upstream;
    /* [rows] or null: the terms of each row, not divided. */
    float *row_losses;
    /* [rows] or null: logsumexp of each row; 0 for ignored rows, NaN for bad targets. */
    float *row_lse;
    /* [rows] or null: the class of the largest value, the lowest of several; of NaN if there is one;
       -1 for ignored rows and bad targets. */
    int64_t *row_argmax;
    /* Scalar loss and correct predictions. */
    struct XentRowSums sums;
    /* [rows] or null: where to save what the backward pass needs. */
    struct XentSavedRow *save;
    /* [rows] or null: what the forward pass saved. */
    const struct XentSavedRow *saved;
    /* split_row: [rows, slices] partial results; used without `saved`. */
    struct XentPartial *partials;
    /* XENT_DIVIDED_DEVICE: what the normalizer kernel found. */
    const struct XentDivided *device_divided;
    /* XENT_DIVIDED_HERE: where the first row's team leaves what it found, or null. */
    struct XentDivided *save_divided;
    /* At least `classes`. */
    uint64_t logits_row_stride;
    /* At least `classes`. */
    uint64_t gradient_row_stride;
    /* 0 or 1. */
    uint64_t upstream_stride;
    /* In 1..=XENT_MAX_CLASSES. */
    uint32_t classes;
    /* An `XentPhase`. */
    uint32_t phase;
    /* An `XentDividedSource`. */
    uint32_t divided_source;
    /* XENT_DIVIDED_HERE: what to find; `nll_weights` are the weights of the targets. */
    struct XentDivisors divisors;
    /* a, b, L. */
    struct XentTerms term_weights;
    /* XENT_DIVIDED_HOST. */
    struct XentDivided divided;
    /* How rows are cut. */
    struct XentGeometry geometry;
    /* From stored logits to z. */
    struct XentTransform transform;
};

/* What `xent_log_softmax_*` writes. */
enum XentSoftmaxOutput {
    /* x_k - lse. */
    XENT_LOG_PROBABILITIES = 0,
    /* exp(x_k - lse). */
    XENT_PROBABILITIES = 1
};

/* Argument of `xent_log_softmax_<strategy>_*`: per row of `logits` x, log softmax(x) or softmax(x). */
struct XentLogSoftmax {
    /* [rows, classes] in the kernel's dtype. */
    const void *logits;
    /* [rows, classes] in the kernel's dtype. */
    void *output;
    /* [rows] or null: logsumexp of each row. */
    float *row_lse;
    /* [rows] or null: where to save what the backward pass needs. */
    struct XentSavedRow *save;
    /* At least 1. */
    uint64_t rows;
    /* At least `classes`. */
    uint64_t logits_row_stride;
    /* At least `classes`. */
    uint64_t output_row_stride;
    /* In 1..=XENT_MAX_CLASSES. */
    uint32_t classes;
    /* An `XentSoftmaxOutput`. */
    uint32_t what;
    /* How rows are cut. */
    struct XentGeometry geometry;
};

/*
 * Argument of `xent_log_softmax_backward_<strategy>_*`: per row, with p_k = exp(values_k - lse),
 *
 *     gradient[k] = upstream[k] - p_k sum_j upstream[j].
 */
struct XentLogSoftmaxBackward {
    /* [rows, classes] in the kernel's dtype: the logits, or log-probabilities, whose lse is 0. */
    const void *values;
    /* [rows, classes] in the kernel's dtype. */
    const void *upstream;
    /* [rows, classes] in the kernel's dtype. */
    void *gradient;
    /* [rows]: what the forward pass saved; null for log-probabilities. */
    const struct XentSavedRow *saved;
    /* At least 1. */
    uint64_t rows;
    /* At least `classes`. */
    uint64_t values_row_stride;
    /* At least `classes`. */
    uint64_t upstream_row_stride;
    /* At least `classes`. */
    uint64_t gradient_row_stride;
    /* In 1..=XENT_MAX_CLASSES. */
    uint32_t classes;
    /* Keeps the size a multiple of 8; 0. */
    uint32_t reserved;
    /* How rows of `upstream` are cut. */
    struct XentGeometry geometry;
};

/*
 * Argument of `xent_binary_<strategy>_*`: per row i of `logits` x, with targets q in 0..1, class weights w
 * and positive weights r,
 *
 *     t_k = on q_k + off
 *     loss_i = sum_k w_k (r_k t_k softplus(-x_k) + (1 - t_k) softplus(x_k)) / D
 *     gradient_i[k] = g_i dloss_i / dx_k
 *
 * where q_k is [k = y] for class indices y.
 */
struct XentBinary {
    /* [rows, classes] in the kernel's dtype. */
    const void *logits;
    /* [rows, classes] in the kernel's dtype, or null. May be `logits`, with the same stride. */
    void *gradient;
    /* Class indices, or probabilities. */
    struct XentTargets targets;
    /* w: [classes] or null for 1. */
    const float *class_weights;
    /* r: [classes] or null for 1. */
    const float *positive_weights;
    /* g_i is upstream[i * upstream_stride]; null means 1. */
    const float *upstream;
    /* [rows] or null: the loss of each row, times `over_classes` and not divided by D. */
    float *row_losses;
    /* The scalar loss; `correct` is not used. */
    struct XentRowSums sums;
    /* 1 / D of the nll term, or null where the host knew it. */
    const struct XentDivided *device_divided;
    /* At least `classes`. */
    uint64_t logits_row_stride;
    /* At least `classes`. */
    uint64_t gradient_row_stride;
    /* 0 or 1. */
    uint64_t upstream_stride;
    /* In 1..=XENT_MAX_CLASSES. */
    uint32_t classes;
    /* What a target keeps. */
    float on;
    /* What every class gets. */
    float off;
    /* 1 - on - off. */
    float rest;
    /* What multiplies the sum over classes: 1, or 1 / classes. */
    float over_classes;
    /* 1 / D where `device_divided` is null. */
    float inverse_divisor;
    /* How rows are cut. */
    struct XentGeometry geometry;
};

#ifdef __cplusplus
/* The device's half of the layout check; bindgen writes the host's half. */
static_assert(sizeof(XentTargets) == 32, "layout of XentTargets");
static_assert(sizeof(XentStatus) == 40, "layout of XentStatus");
static_assert(sizeof(XentWorkspace) == 88, "layout of XentWorkspace");
static_assert(sizeof(XentSavedRow) == 16, "layout of XentSavedRow");
static_assert(sizeof(XentRowSums) == 56, "layout of XentRowSums");
static_assert(sizeof(XentNormalizer) == 120, "layout of XentNormalizer");
static_assert(sizeof(XentFused) == 352, "layout of XentFused");
static_assert(sizeof(XentLogSoftmax) == 88, "layout of XentLogSoftmax");
static_assert(sizeof(XentLogSoftmaxBackward) == 96, "layout of XentLogSoftmaxBackward");
static_assert(sizeof(XentBinary) == 216, "layout of XentBinary");
static_assert(sizeof(XentPartial) == 32, "layout of XentPartial");
static_assert(sizeof(XentGeometry) == 24, "layout of XentGeometry");
static_assert(sizeof(XentDivisors) == 40, "layout of XentDivisors");
#endif

#endif
