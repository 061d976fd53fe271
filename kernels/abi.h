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

/* Largest block that the kernels are compiled for. */
#define XENT_MAX_THREADS 1024u

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
    /* What the normalizer kernel found: 1 / counted rows. */
    float inverse_normalizer;
    /* Keeps the size a multiple of 8; 0. */
    uint32_t reserved;
};

/* Argument of `xent_normalizer`. */
struct XentNormalizer {
    /* The targets to count. */
    struct XentTargets targets;
    /* Number of targets, at least 1. */
    uint64_t rows;
    /* Where the result goes. */
    struct XentWorkspace *workspace;
};

/*
 * Argument of `xent_fused_*`: per row i of `logits`, with p = softmax(row) and y its target,
 *
 *     loss_i = nll_weight * -log p_y + smoothing_weight * sum_k -log p_k
 *     gradient_i[k] = g_i * n * ((nll_weight + classes * smoothing_weight) * p_k
 *                                - smoothing_weight - nll_weight * [k = y])
 *
 * with g_i the upstream gradient and n the inverse normalizer.
 */
struct XentFused {
    /* [rows, classes] in the kernel's dtype; row i starts at element i * logits_row_stride. */
    const void *logits;
    /* [rows, classes] in the kernel's dtype; row i starts at element i * gradient_row_stride. */
    void *gradient;
    /* [rows] class indices. */
    struct XentTargets targets;
    /* g_i is upstream[i * upstream_stride]; null means 1. */
    const float *upstream;
    /* [rows], never null: loss_i. */
    float *row_losses;
    /* [rows] or null: logsumexp of each row; 0 for ignored rows, NaN for bad targets. */
    float *row_lse;
    /* One element or null: n * sum_i loss_i, summed in an order that depends on `rows` alone. */
    float *loss;
    /* [ceil(rows / XENT_CHUNK_ROWS)]: n times the sum of each chunk; used if `loss` is not null. */
    float *chunk_losses;
    /* [ceil(rows / XENT_CHUNK_ROWS)]: rows of each chunk that are done; 0 between launches. */
    uint32_t *chunk_tickets;
    /* Status, tickets and the normalizer. */
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
    /* Weight of -log p_y. */
    float nll_weight;
    /* Weight of each -log p_k. */
    float smoothing_weight;
    /* What all weights of a row sum to: nll_weight + classes * smoothing_weight. */
    float total_weight;
    /* What the weights of the classes but y sum to: (classes - 1) * smoothing_weight. */
    float others_weight;
    /* n, unless `device_normalizer`. */
    float inverse_normalizer;
    /* 0 or 1: n is workspace->inverse_normalizer. */
    uint32_t device_normalizer;
};

#ifdef __cplusplus
/* The device's half of the layout check; bindgen writes the host's half. */
static_assert(sizeof(XentTargets) == 24, "layout of XentTargets");
static_assert(sizeof(XentStatus) == 40, "layout of XentStatus");
static_assert(sizeof(XentWorkspace) == 64, "layout of XentWorkspace");
static_assert(sizeof(XentNormalizer) == 40, "layout of XentNormalizer");
static_assert(sizeof(XentFused) == 160, "layout of XentFused");
#endif

#endif
