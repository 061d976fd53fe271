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

/* Largest number of classes: positions within a row are 32-bit in the kernels. */
#define XENT_MAX_CLASSES 1073741824u

/* Largest block that the plain kernels are compiled for: 80 registers a thread; 72 would spill. */
#define XENT_MAX_THREADS 768u

/* Largest block of the general kernels, which need more registers. */
#define XENT_MAX_GENERAL_THREADS 512u

/* Static shared memory of a fused block kernel; the rest of the device's limit can hold the row. */
#define XENT_BLOCK_STATIC_SHARED_BYTES 512u

/* Rows whose losses are summed together; part of the definition of the scalar loss's last bits. */
#define XENT_CHUNK_ROWS 1024u

/* Threads of one block of the normalizer kernel. */
#define XENT_NORMALIZER_THREADS 256u

/* `XentStatus.first_row` while no bad target has been seen. */
#define XENT_NO_ROW UINT64_MAX

/* Integer type of the class indices. */
enum XentTargetType {
    XENT_TARGET_I32 = 0,
    XENT_TARGET_U32 = 1,
    XENT_TARGET_I64 = 2
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

/* Class indices, and which of them are to be ignored. */
struct XentTargets {
    /* `rows` indices of type `index_type`. */
    const void *indices;
    /* Compared before any other use of a target; any value. Meaningful if `has_ignore_index`. */
    int64_t ignore_index;
    /* An `XentTargetType`. */
    uint32_t index_type;
    /* 0 or 1. */
    uint32_t has_ignore_index;
};

/* Targets outside [0, classes) that kernels met since the host last took this record. */
struct XentStatus {
    /* How many. */
    uint64_t bad_targets;
    /* The lowest row among them, or XENT_NO_ROW. */
    uint64_t first_row;
    /* Target of that row. */
    int64_t first_target;
    /* Classes of the problem of that row. */
    uint64_t first_classes;
    /* Taken while a thread compares and replaces the three fields above; 0 between launches. */
    uint32_t lock;
    /* Keeps the size a multiple of 8; 0. */
    uint32_t reserved;
};

/* Head of the workspace. All zero but `status.first_row` before its first use. */
struct XentWorkspace {
    /* Sticky record of bad targets. */
    struct XentStatus status;
    /* Rows counted so far by the normalizer kernel; 0 between launches. */
    uint64_t counted_rows;
    /* Blocks of the normalizer kernel that are done; 0 between launches. */
    uint32_t normalizer_ticket;
    /* Chunks of rows whose losses are summed; 0 between launches. */
    uint32_t loss_ticket;
    /* What the normalizer kernel found: 1 / D for each term. */
    struct XentTerms inverse_divisors;
    /* Keeps the size a multiple of 8; 0. */
    uint32_t reserved;
};

/* Argument of `xent_normalizer`. */
struct XentNormalizer {
    /* The targets to count. */
    struct XentTargets targets;
    /* [classes] or null for 1. */
    const float *class_weights;
    /* [ceil(rows / XENT_CHUNK_ROWS)]: sums over chunks. */
    float *chunk_sums;
    /* Where the result goes. */
    struct XentWorkspace *workspace;
    /* Number of targets, at least 1. */
    uint64_t rows;
    /* In 1..=XENT_MAX_CLASSES. */
    uint32_t classes;
    /* 0 or 1: divisors of 0 have the reciprocal 0 instead of infinity. */
    uint32_t empty_is_zero;
    /* 1 / D where its source is XENT_DIVISOR_GIVEN. */
    struct XentTerms given;
    /* An `XentDivisorSource` for the nll term. */
    uint32_t nll_source;
    /* An `XentDivisorSource` for the smoothing term. */
    uint32_t smoothing_source;
    /* An `XentDivisorSource` for the z-loss. */
    uint32_t z_loss_source;
};

/*
 * Argument of `xent_fused_*`: per row i of `logits` x, with z = s tanh(t x / s) or t x,
 * lse = log sum_k exp(z_k), p = softmax(z), target y and weights u, v of the classes,
 *
 *     loss_i = a u_y (-log p_y) / D1 + b sum_k v_k (-log p_k) / D2 + L lse^2 / D3
 *     gradient_i[k] = g_i dloss_i / dx_k
 *
 * with a, b, L = term_weights and g_i the upstream gradient.
 */
struct XentFused {
    /* [rows, classes] in the kernel's dtype; row i starts at element i * logits_row_stride. */
    const void *logits;
    /* [rows, classes] in the kernel's dtype; row i starts at element i * gradient_row_stride. May
       be `logits`, with the same stride. */
    void *gradient;
    /* [rows] class indices. */
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
    /* One element or null: sum_i loss_i, in an order that depends on `rows` alone. */
    float *loss;
    /* [rows]: loss_i; used if `loss` is not null. */
    float *row_shares;
    /* [ceil(rows / XENT_CHUNK_ROWS)]: sums over chunks; used if `loss` is not null. */
    float *chunk_sums;
    /* [ceil(rows / XENT_CHUNK_ROWS)]: rows of each chunk that are done; 0 between launches. */
    uint32_t *chunk_tickets;
    /* Status, tickets and the divisors. */
    struct XentWorkspace *workspace;
    /* At least 1. */
    uint64_t rows;
    /* At least `classes`. */
    uint64_t logits_row_stride;
    /* At least `classes`. */
    uint64_t gradient_row_stride;
    /* 0 or 1. */
    uint64_t upstream_stride;
    /* In 1..=XENT_MAX_CLASSES. */
    uint32_t classes;
    /* Packs of a row's aligned body that fit the launch's dynamic shared memory. */
    uint32_t cached_packs;
    /* a, b, L. */
    struct XentTerms term_weights;
    /* 1 / D1, 1 / D2, 1 / D3, unless `device_divisors`. */
    struct XentTerms inverse_divisors;
    /* From stored logits to z. */
    struct XentTransform transform;
    /* 0 or 1: the reciprocals are workspace->inverse_divisors. */
    uint32_t device_divisors;
};

#ifdef __cplusplus
/* The device's half of the layout check; bindgen writes the host's half. */
static_assert(sizeof(XentTargets) == 24, "layout of XentTargets");
static_assert(sizeof(XentStatus) == 40, "layout of XentStatus");
static_assert(sizeof(XentWorkspace) == 72, "layout of XentWorkspace");
static_assert(sizeof(XentNormalizer) == 88, "layout of XentNormalizer");
static_assert(sizeof(XentFused) == 208, "layout of XentFused");
#endif

#endif
