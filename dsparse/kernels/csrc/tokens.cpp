// The kernels for small blocks, compiled on their own so that they build beside kernels.cpp.
#include "tokens.h"

namespace dsparse {
namespace DSPARSE_ISA {

template Status tokens_forward<float>(const Call&);
template Status tokens_forward<Bf16>(const Call&);
template Status tokens_input_gradient<float>(const Call&);
template Status tokens_input_gradient<Bf16>(const Call&);
template Status tokens_weight_gradient<float>(const Call&);
template Status tokens_weight_gradient<Bf16>(const Call&);

}  // namespace DSPARSE_ISA
}  // namespace dsparse
