/* Coordinate ascent of agents who choose among things and take from each other where they choose the same, float32.

   One agent after the other, as turns.py does it with tensors, which calls this and tells what is meant. Memory is the
   caller's, row after row; nothing is checked here. */

#include <math.h>
#include <stdint.h>

#include "../../circuits/engine/native/doors.h"

struct Task {
    int64_t rows, agents, actions, shown, count, rank, sweeps;
    const float *own, *rivalry; /* [rows, agents, actions], [rows, agents, shown, rank] */
    const int64_t *things;      /* [rows, agents, shown], or NULL: thing j for all */
    const double *temperatures; /* [sweeps] */
    float *chosen, *met;        /* [rows, agents, actions], [rows, count, rank] */
};

/* One agent's turn. Its own part leaves what is met, its probabilities become new, its new part joins. */
INLINE void turn(const float *own, const float *rivalry, const int64_t *things, float *chosen, float *met,
                 int64_t actions, int64_t shown, int64_t rank, float inverse)
{
    float largest = -INFINITY, total = 0.0f;
    for (int64_t j = 0; j < shown; j++) {
        const float *r = rivalry + j * rank, before = chosen[j];
        float *m = met + (things ? things[j] : j) * rank;
        float taken = 0.0f;
        for (int64_t k = 0; k < rank; k++) {
            m[k] -= before * r[k];
            taken += r[k] * m[k];
        }
        chosen[j] = own[j] - taken;
    }
    for (int64_t j = shown; j < actions; j++)
        chosen[j] = own[j];
    for (int64_t j = 0; j < actions; j++)
        largest = chosen[j] > largest ? chosen[j] : largest;
    for (int64_t j = 0; j < actions; j++) {
        float x = (chosen[j] - largest) * inverse;
        /* Numbers that are too small for full precision would take a hundred times as long wherever they go. */
        chosen[j] = x < -80.0f ? 0.0f : expf(x);
    }
    for (int64_t j = 0; j < actions; j++)
        total += chosen[j];
    for (int64_t j = 0; j < actions; j++)
        chosen[j] /= total;
    for (int64_t j = 0; j < shown; j++) {
        const float *r = rivalry + j * rank, after = chosen[j];
        float *m = met + (things ? things[j] : j) * rank;
        for (int64_t k = 0; k < rank; k++)
            m[k] += after * r[k];
    }
}

EXPORT int take_turns(const struct Task *t)
{
    for (int64_t row = 0; row < t->rows; row++) {
        float *met = t->met + row * t->count * t->rank;
        for (int64_t sweep = 0; sweep < t->sweeps; sweep++) {
            float inverse = (float)(1.0 / t->temperatures[sweep]);
            for (int64_t agent = row * t->agents; agent < (row + 1) * t->agents; agent++) {
                const int64_t *things = t->things ? t->things + agent * t->shown : 0;
                const float *rivalry = t->rivalry + agent * t->shown * t->rank;
                const float *own = t->own + agent * t->actions;
                float *chosen = t->chosen + agent * t->actions;
                if (t->rank == 8) /* a constant here makes the short loops straight code */
                    turn(own, rivalry, things, chosen, met, t->actions, t->shown, 8, inverse);
                else
                    turn(own, rivalry, things, chosen, met, t->actions, t->shown, t->rank, inverse);
            }
        }
    }
    return 0;
}
