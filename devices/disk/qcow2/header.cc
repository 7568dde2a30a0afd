// SPDX-License-Identifier: Apache-2.0
// The fields of a header, its extensions and the name of the backing image, as bytes.
#include "devices/disk/qcow2/header.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "devices/disk/qcow2/big_endian.h"
#include "vmm/base/align.h"
#include "vmm/base/fd.h"
#include "vmm/base/try.h"

namespace snapvm::disk::qcow2 {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::size_t kVersion2Length = 72;
constexpr std::size_t kVersion3Length = 104;  // up to header_length itself
constexpr std::size_t kCompressionOffset = 104;
constexpr std::size_t kMoreFields = kCompressionOffset + 1;

constexpr std::uint32_t kMaxSnapshots = 65'536;
constexpr std::uint64_t kMinSnapshotEntry = 40;
constexpr std::size_t kMaxBackingName = 1023;
constexpr std::size_t kMaxBackingFormat = 15;  // in bytes, as in QEMU

constexpr std::uint64_t kKnownIncompatible = kDirty | kCorrupt | kCompressionType | kExtendedL2;

constexpr std::uint32_t kEndExtension = 0;
constexpr std::uint32_t kBackingFormatExtension = 0xE2792ACA;
constexpr std::uint32_t kFeatureNamesExtension = 0x6803F857;
constexpr std::size_t kExtensionHeader = 8;
constexpr std::size_t kFeatureName = 48;  // an entry of the feature name table

std::string text_of(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

// The checks of one image's header.
class Parser {
public:
    Parser(Bytes bytes, const std::string& name) : bytes_(bytes), name_(name) {}

    Result<std::uint64_t> begin();
    Result<Header> parse();

private:
    [[nodiscard]] std::unexpected<Error> damaged(const std::string& what) const {
        return fail(ErrorKind::invalid, name_ + " is no valid qcow2 image: " + what,
                    "take a good copy, or try \"qemu-img check\"");
    }
    [[nodiscard]] std::unexpected<Error> unsupported(const std::string& what) const {
        return fail(ErrorKind::unsupported, name_ + " uses " + what + ", which snapvm does not support",
                    "convert it to a plain qcow2 image with \"qemu-img convert -O qcow2\"");
    }
    [[nodiscard]] std::uint32_t be32(std::size_t offset) const { return load_be<std::uint32_t>(bytes_, offset); }
    [[nodiscard]] std::uint64_t be64(std::size_t offset) const { return load_be64(bytes_, offset); }

    Status fields();
    Status features();
    Status more_fields();
    Status sizes() const;
    Status table(const char* what, std::uint64_t offset, std::uint64_t size) const;
    Status backing();
    Status extensions();
    Status extension(std::uint32_t type, Bytes data);
    Status known_features() const;
    [[nodiscard]] std::string feature_name(unsigned bit) const;

    Bytes bytes_;
    const std::string& name_;
    Header header_;
    std::size_t length_ = kVersion2Length;  // of all fields
    std::size_t extensions_end_ = 0;
};

Result<std::uint64_t> Parser::begin() {
    if (bytes_.size() < kVersion2Length) {
        return damaged("it ends within its header");
    }
    if (be32(0) != kMagic) {
        return damaged("it does not begin with the magic number");
    }
    header_.version = be32(4);
    if (header_.version != 2 && header_.version != 3) {
        return unsupported("version " + std::to_string(header_.version) + " of the format");
    }
    header_.cluster_bits = be32(20);
    if (header_.cluster_bits < kMinClusterBits || header_.cluster_bits > kMaxClusterBits) {
        return damaged("clusters of 2^" + std::to_string(header_.cluster_bits) + " bytes are not 512 bytes to 2 MiB");
    }
    return header_.cluster_size();
}

Result<Header> Parser::parse() {
    const std::uint64_t cluster_size = TRY(begin());
    bytes_ = bytes_.first(std::min<std::uint64_t>(bytes_.size(), cluster_size));
    TRY(fields());
    if (header_.version == 3) {
        TRY(features());
        TRY(more_fields());
    }
    TRY(backing());
    TRY(extensions());
    TRY(known_features());
    TRY(sizes());
    return std::move(header_);
}

Status Parser::fields() {
    header_.size = be64(24);
    const std::uint32_t encryption = be32(32);
    if (encryption != 0) {
        return unsupported(encryption == 1   ? "encryption (AES)"
                           : encryption == 2 ? "encryption (LUKS)"
                                             : "an unknown encryption, number " + std::to_string(encryption));
    }
    header_.l1_entries = be32(36);
    header_.l1_offset = be64(40);
    header_.refcount_table_offset = be64(48);
    header_.refcount_table_clusters = be32(56);
    header_.snapshots = be32(60);
    header_.snapshots_offset = be64(64);
    return {};
}

Status Parser::features() {
    if (bytes_.size() < kVersion3Length) {
        return damaged("it ends within its header");
    }
    header_.incompatible = be64(72);
    header_.compatible = be64(80);
    header_.autoclear = be64(88);
    header_.refcount_order = be32(96);
    if (header_.refcount_order > kMaxRefcountOrder) {
        return damaged("reference counts of 2^" + std::to_string(header_.refcount_order) +
                       " bits are more than 64 bits");
    }
    if (header_.extended_l2() && header_.cluster_bits < kMinExtendedL2ClusterBits) {
        return damaged("extended L2 entries need clusters of 16 KiB or more");
    }
    const std::uint32_t length = be32(100);
    if (length < kVersion3Length || length % 8 != 0 || length > bytes_.size()) {
        return damaged("its header has an impossible length, " + std::to_string(length));
    }
    length_ = length;
    return {};
}

Status Parser::more_fields() {
    std::uint8_t compression = 0;
    if (length_ > kCompressionOffset) {
        compression = std::to_integer<std::uint8_t>(bytes_[kCompressionOffset]);
        const Bytes more = bytes_.first(length_).subspan(kMoreFields);
        header_.more_fields.assign(more.begin(), more.end());
    }
    const bool has_type = (header_.incompatible & kCompressionType) != 0;
    if (has_type != (compression != 0)) {
        return damaged("its compression type and the feature bit for it contradict each other");
    }
    if (compression > static_cast<std::uint8_t>(Compression::zstd)) {
        return unsupported("an unknown compression, number " + std::to_string(compression));
    }
    header_.compression = static_cast<Compression>(compression);
    return {};
}

Status Parser::backing() {
    const std::uint64_t offset = be64(8);
    const std::uint32_t size = be32(16);
    extensions_end_ = bytes_.size();
    if (offset == 0) {
        return {};
    }
    if (offset < length_ || offset > bytes_.size()) {
        return damaged("the name of its backing image is not between header and end of the first cluster");
    }
    if (size > kMaxBackingName || size > bytes_.size() - offset) {
        return damaged("the name of its backing image is too long, " + std::to_string(size) + " bytes");
    }
    extensions_end_ = offset;
    header_.has_backing = size > 0;
    header_.backing_file = text_of(bytes_.subspan(offset, size));
    if (header_.backing_file.contains('\0')) {
        return damaged("the name of its backing image has a zero byte");
    }
    return {};
}

Status Parser::extensions() {
    std::size_t at = length_;
    while (at < extensions_end_ && extensions_end_ - at >= kExtensionHeader) {
        const std::uint32_t type = be32(at);
        const std::uint32_t size = be32(at + 4);
        at += kExtensionHeader;
        if (type == kEndExtension) {
            header_.name_offset = header_.has_backing && at < extensions_end_ ? extensions_end_ : 0;
            return {};
        }
        if (size > extensions_end_ - at) {
            return damaged("a header extension goes beyond the room for extensions");
        }
        TRY(extension(type, bytes_.subspan(at, size)));
        at += align_up(size, 8);
    }
    return {};
}

Status Parser::extension(std::uint32_t type, Bytes data) {
    if (type != kBackingFormatExtension) {
        header_.extensions.push_back({.type = type, .data = {data.begin(), data.end()}});
        return {};
    }
    const std::string format = text_of(data);
    if (!header_.backing_format.empty() || format.size() > kMaxBackingFormat || format.contains('\0')) {
        return damaged("the format of its backing image is no name of a format");
    }
    header_.backing_format = format;
    return {};
}

Status Parser::known_features() const {
    if ((header_.incompatible & kExternalData) != 0) {
        return unsupported("an external data file");
    }
    const std::uint64_t unknown = header_.incompatible & ~kKnownIncompatible;
    if (unknown != 0) {
        return unsupported("the feature " + feature_name(static_cast<unsigned>(std::countr_zero(unknown))));
    }
    return {};
}

std::string Parser::feature_name(unsigned bit) const {
    for (const Extension& one : header_.extensions) {
        if (one.type != kFeatureNamesExtension) {
            continue;
        }
        for (Bytes rest = one.data; rest.size() >= kFeatureName; rest = rest.subspan(kFeatureName)) {
            if (rest[0] == std::byte{0} && std::to_integer<unsigned>(rest[1]) == bit) {
                const std::string name = text_of(rest.first(kFeatureName).subspan(2));
                return "\"" + name.substr(0, name.find('\0')) + "\" (bit " + std::to_string(bit) + ")";
            }
        }
    }
    return "of bit " + std::to_string(bit);
}

Status Parser::table(const char* what, std::uint64_t offset, std::uint64_t size) const {
    if (offset % header_.cluster_size() != 0) {
        return damaged(std::string(what) + " does not begin at a cluster");
    }
    if (size > 0 && offset == 0) {
        return damaged(std::string(what) + " is where the header is");
    }
    if (offset > std::numeric_limits<std::int64_t>::max() - size) {
        return damaged(std::string(what) + " is beyond the end of any file");
    }
    return {};
}

Status Parser::sizes() const {
    const std::uint64_t l1_size = header_.l1_entries * std::uint64_t{8};
    if (l1_size > kMaxL1Bytes) {
        return damaged("its L1 table is larger than 32 MiB");
    }
    TRY(table("its L1 table", header_.l1_offset, l1_size));
    const std::uint64_t needed = header_.size / header_.l2_reach() + (header_.size % header_.l2_reach() == 0 ? 0 : 1);
    if (needed > header_.l1_entries) {
        return damaged("its L1 table is too small for a disk of " + std::to_string(header_.size) + " bytes");
    }
    if (header_.refcount_table_clusters == 0) {
        return damaged("it has no refcount table");
    }
    const std::uint64_t refcount_size = header_.refcount_table_clusters * header_.cluster_size();
    if (refcount_size > kMaxRefcountTableBytes) {
        return damaged("its refcount table is larger than 8 MiB");
    }
    TRY(table("its refcount table", header_.refcount_table_offset, refcount_size));
    if (header_.snapshots > kMaxSnapshots) {
        return damaged("it has more than 65536 internal snapshots");
    }
    return table("its snapshot table", header_.snapshots_offset, header_.snapshots * kMinSnapshotEntry);
}

// Appends a header's bytes.
class Writer {
public:
    explicit Writer(const Header& header) : header_(header) {}
    Result<std::vector<std::byte>> write();

private:
    void fields();
    void features();
    void extension(std::uint32_t type, Bytes data);
    void backing_name();

    const Header& header_;
    std::vector<std::byte> bytes_;
};

Result<std::vector<std::byte>> Writer::write() {
    fields();
    if (header_.version == 3) {
        features();
    }
    if (!header_.backing_format.empty()) {
        extension(kBackingFormatExtension, std::as_bytes(std::span(header_.backing_format)));
    }
    for (const Extension& one : header_.extensions) {
        extension(one.type, one.data);
    }
    // With no name behind them, the end of the cluster ends the extensions, too.
    if (header_.has_backing || bytes_.size() < header_.cluster_size()) {
        extension(kEndExtension, {});
    }
    if (header_.has_backing) {
        backing_name();
    }
    if (bytes_.size() > header_.cluster_size()) {
        return fail(ErrorKind::usage, "the header of an image does not fit into its first cluster",
                    "use larger clusters, or a shorter name of the backing image");
    }
    bytes_.resize(header_.cluster_size());
    return std::move(bytes_);
}

void Writer::fields() {
    bytes_.resize(kVersion2Length);
    store_be<std::uint32_t>(bytes_, 0, kMagic);
    store_be<std::uint32_t>(bytes_, 4, header_.version);
    store_be<std::uint32_t>(bytes_, 20, header_.cluster_bits);
    store_be64(bytes_, 24, header_.size);
    store_be<std::uint32_t>(bytes_, 36, header_.l1_entries);
    store_be64(bytes_, 40, header_.l1_offset);
    store_be64(bytes_, 48, header_.refcount_table_offset);
    store_be<std::uint32_t>(bytes_, 56, header_.refcount_table_clusters);
    store_be<std::uint32_t>(bytes_, 60, header_.snapshots);
    store_be64(bytes_, 64, header_.snapshots_offset);
}

void Writer::features() {
    bytes_.resize(kVersion3Length);
    store_be64(bytes_, 72, header_.incompatible);
    store_be64(bytes_, 80, header_.compatible);
    store_be64(bytes_, 88, header_.autoclear);
    store_be<std::uint32_t>(bytes_, 96, header_.refcount_order);
    if (!header_.more_fields.empty() || header_.compression != Compression::zlib) {
        bytes_.push_back(static_cast<std::byte>(header_.compression));
        bytes_.insert(bytes_.end(), header_.more_fields.begin(), header_.more_fields.end());
        bytes_.resize(align_up(bytes_.size(), 8));
    }
    store_be<std::uint32_t>(bytes_, 100, static_cast<std::uint32_t>(bytes_.size()));
}

void Writer::extension(std::uint32_t type, Bytes data) {
    const std::size_t at = bytes_.size();
    bytes_.resize(at + kExtensionHeader);
    store_be<std::uint32_t>(bytes_, at, type);
    store_be<std::uint32_t>(bytes_, at + 4, static_cast<std::uint32_t>(data.size()));
    bytes_.insert(bytes_.end(), data.begin(), data.end());
    bytes_.resize(align_up(bytes_.size(), 8));
}

void Writer::backing_name() {
    const Bytes name = std::as_bytes(std::span(header_.backing_file));
    if (bytes_.size() < header_.name_offset) {
        bytes_.resize(header_.name_offset);
    }
    store_be64(bytes_, 8, bytes_.size());
    store_be<std::uint32_t>(bytes_, 16, static_cast<std::uint32_t>(name.size()));
    bytes_.insert(bytes_.end(), name.begin(), name.end());
}

}  // namespace

Result<std::uint64_t> header_bytes(std::span<const std::byte> begin, const std::string& name) {
    return Parser(begin, name).begin();
}

Result<Header> parse_header(std::span<const std::byte> bytes, const std::string& name) {
    return Parser(bytes, name).parse();
}

Result<Header> read_header(int fd, std::uint64_t file_bytes, const std::string& name) {
    std::vector<std::byte> bytes(std::min<std::uint64_t>(file_bytes, kVersion2Length));
    TRY(read_exactly_at(fd, bytes, 0, name));
    bytes.resize(std::min(file_bytes, TRY(header_bytes(bytes, name))));
    TRY(read_exactly_at(fd, bytes, 0, name));
    return parse_header(bytes, name);
}

Result<std::vector<std::byte>> encode_header(const Header& header) {
    if (header.backing_file.size() > kMaxBackingName || header.backing_file.contains('\0')) {
        return fail(ErrorKind::usage, "the name of a backing image is longer than 1023 bytes, or has a zero byte",
                    "use a shorter path, or a relative one");
    }
    if (header.version == 2 && (header.incompatible != 0 || header.refcount_order != kVersion2RefcountOrder)) {
        return fail(ErrorKind::usage, "an image of version 2 of qcow2 cannot have features of version 3",
                    "convert it with \"qemu-img amend -o compat=1.1\"");
    }
    return Writer(header).write();
}

Task<Status> HeaderStore::write() {
    auto alone = co_await writing_.lock();
    const auto bytes = encode_header(header_);
    if (!bytes) {
        co_return fail(bytes.error());
    }
    const std::span<const std::byte> cluster(*bytes);
    co_return co_await file_.write(0, cluster);
}

Task<Status> HeaderStore::replace(Header next) {
    std::swap(header_, next);
    in_doubt_ = true;
    Status settled = co_await settle();
    if (!settled) {
        std::swap(header_, next);
    }
    co_return settled;
}

Task<Status> HeaderStore::settle() {
    if (!in_doubt_) {
        co_return Status{};
    }
    Status written = co_await write();
    CO_TRY(written);
    Status flushed = co_await file_.flush();
    CO_TRY(flushed);
    in_doubt_ = false;
    co_return Status{};
}

}  // namespace snapvm::disk::qcow2
