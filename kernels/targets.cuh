// Reading a row's target, and recording the ones that name no class.
//
// Invariants: the target is compared with ignore_index before any other use; only a target that
// was found to be in [0, classes) is ever used as an index.
#pragma once

#include <stdint.h>

#include "abi.h"

namespace xent {

enum class TargetKind { kClass, kIgnored, kBad };

struct Target {
    TargetKind kind;
    int64_t value;
};

__device__ __forceinline__ int64_t target_value(const XentTargets &targets, uint64_t row) {
    if (targets.kind == XENT_TARGET_I64) return static_cast<const int64_t *>(targets.values)[row];
    const int32_t value = static_cast<const int32_t *>(targets.values)[row];
    return targets.kind == XENT_TARGET_I32 ? value : int64_t(uint32_t(value));
}

__device__ __forceinline__ bool is_ignored(const XentTargets &targets, int64_t value) {
    return targets.has_ignore_index != 0 && value == targets.ignore_index;
}

__device__ __forceinline__ Target load_target(const XentTargets &targets, uint64_t row,
                                              uint32_t classes) {
    const int64_t value = target_value(targets, row);
    if (is_ignored(targets, value)) return {TargetKind::kIgnored, value};
    // As unsigned, a negative target is larger than any number of classes.
    if (uint64_t(value) >= classes) return {TargetKind::kBad, value};
    return {TargetKind::kClass, value};
}

// Called by one thread for each bad row. Three fields have to agree, so a lock guards them; it is
// taken only by rows below the lowest so far, so that a tensor full of bad targets does not queue
// for it. The lowest row wins, whatever the order of blocks.
__device__ __forceinline__ void record_bad_target(XentStatus &status, uint64_t row, int64_t value,
                                                      uint32_t classes) {
    volatile XentStatus &fields = status;
    atomicAdd(reinterpret_cast<unsigned long long *>(&status.bad_targets), 1ull);
    // The field only ever grows within a launch: a row that is not below the lowest never will be.
    const uint64_t rows_from = ~row;
    if (rows_from <= fields.rows_from_first) return;
    // All in the loop: of lanes of a warp that want it, one that waits for the others behind the loop would wait
    // with the lock taken.
    for (bool recorded = false; !recorded;) {
        if (atomicCAS(&status.lock, 0u, 1u) != 0u) continue;
        __threadfence();  // the fields are read after the lock is taken
        if (rows_from > fields.rows_from_first) {
            fields.rows_from_first = rows_from;
            fields.first_target = value;
            fields.first_classes = classes;
        }
        __threadfence();  // the fields are written before the lock is free
        atomicExch(&status.lock, 0u);
        recorded = true;
    }
}

}  // namespace xent
