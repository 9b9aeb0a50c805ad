//! What we take the header of libibverbs to say, as expressions in C and their values.
//!
//! # Not here
//! The comparison: it needs the header and a C compiler, which a build of this crate does not.

use std::mem::{offset_of, size_of};

use super::*;

macro_rules! table {
    ($(
        $struct:literal = $type:ty { $($field:literal = $name:ident),* $(,)? } $($whole:ident)?;
    )*) => {
        &[$(
            $((concat!("offsetof(struct ", $struct, ", ", $field, ")"), offset_of!($type, $name)),)*
            $((table!(@ $whole $struct), size_of::<$type>()),)?
        )*]
    };
    (@ whole $struct:literal) => { concat!("sizeof(struct ", $struct, ")") };
}

/// Where fields lie, and how long those structs are that we describe to their end.
const LAYOUT: &[(&str, usize)] = table! {
    "ibv_context_ops" = ContextOps {
        "alloc_mw" = alloc_mw, "poll_cq" = poll_cq, "req_notify_cq" = req_notify_cq,
        "post_srq_recv" = post_srq_recv, "post_send" = post_send, "post_recv" = post_recv,
    } whole;
    "ibv_context" = Context {
        "ops" = ops, "async_fd" = async_fd, "num_comp_vectors" = num_comp_vectors,
    };
    "ibv_mr" = Mr { "addr" = addr, "length" = length, "lkey" = lkey, "rkey" = rkey } whole;
    "ibv_comp_channel" = CompChannel { "fd" = fd };
    "ibv_qp" = Qp { "srq" = srq, "qp_num" = qp_num };
    "ibv_device_attr" = DeviceAttr {
        "max_qp" = max_qp, "max_qp_wr" = max_qp_wr, "max_sge" = max_sge, "max_cqe" = max_cqe,
        "max_qp_rd_atom" = max_qp_rd_atom, "max_qp_init_rd_atom" = max_qp_init_rd_atom,
        "max_srq_wr" = max_srq_wr, "phys_port_cnt" = phys_port_cnt,
    } whole;
    "ibv_port_attr" = PortAttr {
        "state" = state, "active_mtu" = active_mtu, "gid_tbl_len" = gid_tbl_len,
        "pkey_tbl_len" = pkey_tbl_len, "lid" = lid, "link_layer" = link_layer,
    } whole;
    "ibv_srq_init_attr" = SrqInitAttr { "attr.max_wr" = max_wr, "attr.max_sge" = max_sge } whole;
    "ibv_qp_init_attr" = QpInitAttr {
        "send_cq" = send_cq, "recv_cq" = recv_cq, "srq" = srq, "cap" = cap, "qp_type" = qp_type,
        "sq_sig_all" = sq_sig_all,
    } whole;
    "ibv_qp_cap" = QpCap { "max_send_wr" = max_send_wr, "max_inline_data" = max_inline_data } whole;
    "ibv_global_route" = GlobalRoute {
        "dgid" = dgid, "sgid_index" = sgid_index, "hop_limit" = hop_limit,
        "traffic_class" = traffic_class,
    } whole;
    "ibv_ah_attr" = AhAttr {
        "grh" = grh, "dlid" = dlid, "sl" = sl, "is_global" = is_global, "port_num" = port_num,
    } whole;
    "ibv_qp_attr" = QpAttr {
        "qp_state" = qp_state, "path_mtu" = path_mtu, "rq_psn" = rq_psn, "sq_psn" = sq_psn,
        "dest_qp_num" = dest_qp_num, "qp_access_flags" = qp_access_flags, "ah_attr" = ah_attr,
        "pkey_index" = pkey_index, "max_rd_atomic" = max_rd_atomic,
        "max_dest_rd_atomic" = max_dest_rd_atomic, "min_rnr_timer" = min_rnr_timer,
        "port_num" = port_num, "timeout" = timeout, "retry_cnt" = retry_cnt,
        "rnr_retry" = rnr_retry,
    } whole;
    "ibv_sge" = Sge { "addr" = addr, "length" = length, "lkey" = lkey } whole;
    "ibv_send_wr" = SendWr {
        "wr_id" = wr_id, "next" = next, "sg_list" = sg_list, "num_sge" = num_sge,
        "opcode" = opcode, "send_flags" = send_flags, "imm_data" = imm_data,
        "wr.rdma.remote_addr" = remote_addr, "wr.rdma.rkey" = rkey,
    } whole;
    "ibv_recv_wr" = RecvWr {
        "wr_id" = wr_id, "next" = next, "sg_list" = sg_list, "num_sge" = num_sge,
    } whole;
    "ibv_wc" = Wc {
        "wr_id" = wr_id, "status" = status, "opcode" = opcode, "vendor_err" = vendor_err,
        "byte_len" = byte_len, "imm_data" = imm_data, "qp_num" = qp_num, "wc_flags" = wc_flags,
    } whole;
    "ibv_async_event" = AsyncEvent { "element" = element, "event_type" = event_type } whole;
};

/// The values of constants.
const CONSTANTS: &[(&str, usize)] = &[
    ("IBV_QPT_RC", QPT_RC as usize),
    ("IBV_QPS_INIT", QPS_INIT as usize),
    ("IBV_QPS_RTR", QPS_RTR as usize),
    ("IBV_QPS_RTS", QPS_RTS as usize),
    ("IBV_QPS_ERR", QPS_ERR as usize),
    ("IBV_QP_STATE", QP_STATE as usize),
    ("IBV_QP_ACCESS_FLAGS", QP_ACCESS_FLAGS as usize),
    ("IBV_QP_PKEY_INDEX", QP_PKEY_INDEX as usize),
    ("IBV_QP_PORT", QP_PORT as usize),
    ("IBV_QP_AV", QP_AV as usize),
    ("IBV_QP_PATH_MTU", QP_PATH_MTU as usize),
    ("IBV_QP_TIMEOUT", QP_TIMEOUT as usize),
    ("IBV_QP_RETRY_CNT", QP_RETRY_CNT as usize),
    ("IBV_QP_RNR_RETRY", QP_RNR_RETRY as usize),
    ("IBV_QP_RQ_PSN", QP_RQ_PSN as usize),
    ("IBV_QP_MAX_QP_RD_ATOMIC", QP_MAX_QP_RD_ATOMIC as usize),
    ("IBV_QP_MIN_RNR_TIMER", QP_MIN_RNR_TIMER as usize),
    ("IBV_QP_SQ_PSN", QP_SQ_PSN as usize),
    ("IBV_QP_MAX_DEST_RD_ATOMIC", QP_MAX_DEST_RD_ATOMIC as usize),
    ("IBV_QP_DEST_QPN", QP_DEST_QPN as usize),
    ("IBV_ACCESS_LOCAL_WRITE", ACCESS_LOCAL_WRITE as usize),
    ("IBV_ACCESS_REMOTE_READ", ACCESS_REMOTE_READ as usize),
    ("IBV_WR_SEND_WITH_IMM", WR_SEND_WITH_IMM as usize),
    ("IBV_WR_RDMA_READ", WR_RDMA_READ as usize),
    ("IBV_SEND_SIGNALED", SEND_SIGNALED as usize),
    ("IBV_SEND_INLINE", SEND_INLINE as usize),
    ("IBV_WC_RECV", WC_RECV as usize),
    ("IBV_WC_WITH_IMM", WC_WITH_IMM as usize),
    ("IBV_PORT_ACTIVE", PORT_ACTIVE as usize),
    ("IBV_LINK_LAYER_INFINIBAND", LINK_LAYER_INFINIBAND as usize),
    ("IBV_LINK_LAYER_ETHERNET", LINK_LAYER_ETHERNET as usize),
];

/// Everything that we take the header to say: an expression in C, and its value.
pub(crate) fn layout() -> impl Iterator<Item = (&'static str, usize)> {
    let told = LAYOUT.iter().chain(CONSTANTS).copied();
    told.chain(crate::status::names())
}
