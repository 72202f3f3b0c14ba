/* Messages of object headers (HDF5 File Format Specification 3.0, section IV.A.2). */
#include <string.h>

#include "data/dataset/hdf5_structures.h"

typedef enum MessageType {
  MESSAGE_NIL = 0,
  MESSAGE_DATASPACE = 1,
  MESSAGE_LINK_INFO = 2,
  MESSAGE_DATATYPE = 3,
  MESSAGE_FILL_VALUE = 5,
  MESSAGE_LINK = 6,
  MESSAGE_LAYOUT = 8,
  MESSAGE_GROUP_INFO = 10,
  MESSAGE_FILTERS = 11,
  MESSAGE_ATTRIBUTE = 12,
  MESSAGE_ATTRIBUTE_INFO = 21,
} MessageType;

enum { FILTER_DEFLATE = 1 };

static Status once(const Hdf5Reader *reader, const Hdf5Object *object, const char *what, bool *has,
                   Error *error) {
  if (*has) return hdf5_damaged(reader, object->name, error, "two messages of its %s", what);
  *has = true;
  return OK;
}

/* --- Dataspace and datatype ------------------------------------------------------------------- */

static Status parse_space(const Hdf5Reader *reader, const char *name, Cursor message,
                          Hdf5Space *out, Error *error) {
  enum { VERSION = 2, SCALAR = 0, SIMPLE = 1 };
  uint64_t version = cursor_number(&message, 1), rank = cursor_number(&message, 1);
  cursor_number(&message, 1); /* whether maximal dimensions follow, which do not matter */
  uint64_t kind = cursor_number(&message, 1);
  *out = (Hdf5Space){.rank = (int)rank};
  if (version != VERSION || kind > SIMPLE || rank > HDF5_MAX_RANK || (kind == SCALAR && rank != 0))
    return hdf5_damaged(reader, name, error,
                        "dataspace of version %llu, kind %llu, rank %llu; expected version %d, "
                        "scalar or simple, rank 0 to %d",
                        (unsigned long long)version, (unsigned long long)kind,
                        (unsigned long long)rank, VERSION, HDF5_MAX_RANK);
  for (int i = 0; i < out->rank; i++) {
    out->dims[i] = cursor_number(&message, 8);
    if (!message.overrun && (out->dims[i] < 1 || out->dims[i] > INT64_MAX))
      return hdf5_damaged(reader, name, error, "dimension %d is %llu, expected 1 to 2^63-1", i,
                          (unsigned long long)out->dims[i]);
  }
  if (message.overrun) return hdf5_damaged(reader, name, error, "its dataspace is cut");
  return OK;
}

/* Supports texts, and little-endian integers that use all of their bits. */
static Status parse_type(const Hdf5Reader *reader, const char *name, Cursor message, Hdf5Type *out,
                         Error *error) {
  enum { INTEGER = 0, TEXT = 3, BIG_ENDIAN_BIT = 1, SIGNED_BIT = 8, MAX_VERSION = 3 };
  uint64_t head = cursor_number(&message, 1), bits = cursor_number(&message, 3);
  uint64_t class = head & 15, version = head >> 4;
  out->size = (uint32_t)cursor_number(&message, 4);
  bool supported = version >= 1 && version <= MAX_VERSION && out->size > 0;
  if (class == TEXT) {
    out->class = HDF5_TEXT;
  } else if (class == INTEGER) {
    uint64_t shift = cursor_number(&message, 2), precision = cursor_number(&message, 2);
    out->class = bits & SIGNED_BIT ? HDF5_SIGNED : HDF5_UNSIGNED;
    supported &= !(bits & BIG_ENDIAN_BIT) && shift == 0 && precision == 8 * (uint64_t)out->size;
  } else {
    supported = false;
  }
  if (!supported || message.overrun)
    return hdf5_damaged(reader, name, error,
                        "element type of class %llu with %u bytes; expected little-endian integers "
                        "or texts of fixed size",
                        (unsigned long long)class, out->size);
  return OK;
}

/* --- Layout and filters ----------------------------------------------------------------------- */

static Status parse_chunks(const Hdf5Reader *reader, const Hdf5Object *object, Cursor message,
                           Hdf5Layout *out, Error *error) {
  enum { SINGLE_IS_FILTERED = 2, INDEX_SINGLE = 1, INDEX_FIXED_ARRAY = 3 };
  uint64_t flags = cursor_number(&message, 1), rank = cursor_number(&message, 1);
  uint64_t bytes = cursor_number(&message, 1), mask = 0;
  if (rank < 2 || rank > HDF5_MAX_RANK + 1 || bytes < 1 || bytes > 8)
    return hdf5_damaged(reader, object->name, error, "chunks of rank %llu, expected 1 to %d",
                        (unsigned long long)rank - 1, HDF5_MAX_RANK);
  for (uint64_t i = 0; i + 1 < rank; i++) out->chunk[i] = cursor_number(&message, (int)bytes);
  cursor_number(&message, (int)bytes); /* bytes of an element */
  uint64_t index = cursor_number(&message, 1);
  out->storage = index == INDEX_SINGLE ? HDF5_SINGLE_CHUNK : HDF5_FIXED_ARRAY;
  if (index == INDEX_SINGLE && (flags & SINGLE_IS_FILTERED)) {
    out->size = cursor_number(&message, 8);
    mask = cursor_number(&message, 4);
  } else if (index == INDEX_FIXED_ARRAY) {
    cursor_number(&message, 1); /* page bits, which the index repeats */
  } else {
    return hdf5_damaged(reader, object->name, error,
                        "chunk index of type %llu; expected deflated chunks with a fixed array or "
                        "a single chunk",
                        (unsigned long long)index);
  }
  out->address = cursor_number(&message, 8);
  if (message.overrun || mask != 0)
    return hdf5_damaged(reader, object->name, error, "damaged chunk index");
  return OK;
}

static Status parse_layout(const Hdf5Reader *reader, const Hdf5Object *object, Cursor message,
                           Hdf5Layout *out, Error *error) {
  enum { FIRST_VERSION = 3, LAST_VERSION = 4, CONTIGUOUS = 1, CHUNKED = 2 };
  uint64_t version = cursor_number(&message, 1), class = cursor_number(&message, 1);
  if (class == CHUNKED && version == LAST_VERSION)
    return parse_chunks(reader, object, message, out, error);
  out->storage = HDF5_CONTIGUOUS;
  out->address = cursor_number(&message, 8);
  out->size = cursor_number(&message, 8);
  if (class != CONTIGUOUS || version < FIRST_VERSION || version > LAST_VERSION || message.overrun)
    return hdf5_damaged(reader, object->name, error,
                        "storage layout of class %llu, version %llu; expected contiguous data or "
                        "chunks (class %d or %d), not compact, virtual or external data",
                        (unsigned long long)class, (unsigned long long)version, CONTIGUOUS,
                        CHUNKED);
  return OK;
}

static Status parse_filters(const Hdf5Reader *reader, const Hdf5Object *object, Cursor message,
                            Error *error) {
  enum { VERSION = 2 };
  uint64_t version = cursor_number(&message, 1), count = cursor_number(&message, 1);
  uint64_t filter = cursor_number(&message, 2);
  if (message.overrun || version != VERSION || count != 1 || filter != FILTER_DEFLATE)
    return hdf5_damaged(reader, object->name, error,
                        "%llu filters, the first is number %llu; expected deflate (%d) alone",
                        (unsigned long long)count, (unsigned long long)filter, FILTER_DEFLATE);
  return OK;
}

/* --- Links ------------------------------------------------------------------------------------ */

/* Copies a name; *fits is false if it is empty, too long, or has a NUL. */
static void copy_name(char out[HDF5_NAME_SIZE], const uint8_t *name, uint64_t size, bool *fits) {
  *fits = name && size > 0 && size < HDF5_NAME_SIZE && !memchr(name, 0, (size_t)size);
  if (*fits) memcpy(out, name, (size_t)size);
}

static Status parse_link(const Hdf5Reader *reader, Cursor message, Hdf5Object *object,
                         Error *error) {
  enum { SIZE_BYTES = 3, ORDERED = 4, HAS_KIND = 8, HAS_CHARSET = 16, HARD = 0 };
  Hdf5Link link = {.address = HDF5_NO_ADDRESS};
  bool fits;
  uint64_t version = cursor_number(&message, 1), flags = cursor_number(&message, 1);
  uint64_t kind = flags & HAS_KIND ? cursor_number(&message, 1) : HARD;
  if (flags & ORDERED) cursor_number(&message, 8);
  if (flags & HAS_CHARSET) cursor_number(&message, 1);
  uint64_t size = cursor_number(&message, 1 << (flags & SIZE_BYTES));
  copy_name(link.name, cursor_bytes(&message, (size_t)size), size, &fits);
  if (version != 1 || kind != HARD)
    return hdf5_damaged(reader, object->name, error,
                        "a link of kind %llu, version %llu; expected hard links (kind 0, version "
                        "1), since others can lead to another file",
                        (unsigned long long)kind, (unsigned long long)version);
  link.address = cursor_number(&message, 8);
  if (message.overrun || !fits || hdf5_find_link(object, link.name) ||
      object->link_count == HDF5_MAX_ENTRIES)
    return hdf5_damaged(reader, object->name, error,
                        "a damaged or repeated link, or more than %d links", HDF5_MAX_ENTRIES);
  object->links[object->link_count++] = link;
  return OK;
}

static Status parse_link_info(const Hdf5Reader *reader, Hdf5Object *object, Cursor message,
                              Error *error) {
  enum { ORDERED = 1 };
  uint64_t version = cursor_number(&message, 1), flags = cursor_number(&message, 1);
  if (flags & ORDERED) cursor_number(&message, 8);
  uint64_t heap = cursor_number(&message, 8);
  object->is_group = true;
  if (message.overrun || version != 0 || heap != HDF5_NO_ADDRESS)
    return hdf5_damaged(reader, object->name, error,
                        "links in dense storage; expected them in the object header");
  return OK;
}

/* --- Attributes ------------------------------------------------------------------------------- */

Status hdf5_parse_attribute(const Hdf5Reader *reader, Cursor message, Hdf5Object *object,
                            Error *error) {
  enum { VERSION = 3 };
  Hdf5Attribute attribute = {0};
  Hdf5Space space;
  bool fits;
  uint64_t version = cursor_number(&message, 1), flags = cursor_number(&message, 1);
  uint64_t name_size = cursor_number(&message, 2), type_size = cursor_number(&message, 2);
  uint64_t space_size = cursor_number(&message, 2);
  cursor_number(&message, 1); /* character set of the name */
  const uint8_t *name = cursor_bytes(&message, (size_t)name_size);
  Cursor type = {cursor_bytes(&message, (size_t)type_size), (size_t)type_size, 0, false};
  Cursor extent = {cursor_bytes(&message, (size_t)space_size), (size_t)space_size, 0, false};
  copy_name(attribute.name, name, name_size > 0 ? name_size - 1 : 0, &fits); /* ends in NUL */
  if (message.overrun || version != VERSION || flags != 0 || !fits ||
      hdf5_find_attribute(object, attribute.name) || object->attribute_count == HDF5_MAX_ENTRIES)
    return hdf5_damaged(reader, object->name, error,
                        "a damaged, shared or repeated attribute, or more than %d attributes",
                        HDF5_MAX_ENTRIES);
  Status status = parse_type(reader, attribute.name, type, &attribute.type, error);
  if (status == OK) status = parse_space(reader, attribute.name, extent, &space, error);
  if (status != OK) return status;
  const uint8_t *value = cursor_bytes(&message, attribute.type.size);
  if (!value || space.rank != 0)
    return hdf5_damaged(reader, attribute.name, error, "expected one value");
  if (attribute.type.size <= HDF5_VALUE_SIZE) memcpy(attribute.value, value, attribute.type.size);
  object->attributes[object->attribute_count++] = attribute;
  return OK;
}

static Status parse_attribute_info(const Hdf5Reader *reader, Hdf5Object *object, Cursor message,
                                   Error *error) {
  enum { ORDERED = 1 };
  uint64_t version = cursor_number(&message, 1), flags = cursor_number(&message, 1);
  if (flags & ORDERED) cursor_number(&message, 2);
  object->attribute_heap = cursor_number(&message, 8);
  object->attribute_index = cursor_number(&message, 8);
  if (message.overrun || version != 0)
    return hdf5_damaged(reader, object->name, error, "damaged attribute information");
  return OK;
}

/* --- All messages ----------------------------------------------------------------------------- */

Status hdf5_parse_message(const Hdf5Reader *reader, int type, Cursor message, Hdf5Object *object,
                          Error *error) {
  Status status = OK;
  switch ((MessageType)type) {
  case MESSAGE_NIL:
  case MESSAGE_FILL_VALUE: /* all values are written */
  case MESSAGE_GROUP_INFO: /* hints for the library */
    break;
  case MESSAGE_DATASPACE:
    TRY(once(reader, object, "dataspace", &object->has_space, error));
    TRY(parse_space(reader, object->name, message, &object->space, error));
    break;
  case MESSAGE_DATATYPE:
    TRY(once(reader, object, "element type", &object->has_type, error));
    TRY(parse_type(reader, object->name, message, &object->type, error));
    break;
  case MESSAGE_LAYOUT:
    TRY(once(reader, object, "storage layout", &object->has_layout, error));
    TRY(parse_layout(reader, object, message, &object->layout, error));
    break;
  case MESSAGE_FILTERS:
    TRY(once(reader, object, "filters", &object->has_deflate, error));
    TRY(parse_filters(reader, object, message, error));
    break;
  case MESSAGE_LINK_INFO:
    TRY(parse_link_info(reader, object, message, error));
    break;
  case MESSAGE_LINK:
    TRY(parse_link(reader, message, object, error));
    break;
  case MESSAGE_ATTRIBUTE:
    TRY(hdf5_parse_attribute(reader, message, object, error));
    break;
  case MESSAGE_ATTRIBUTE_INFO:
    TRY(parse_attribute_info(reader, object, message, error));
    break;
  default:
    status = hdf5_damaged(reader, object->name, error,
                          "a message of type %d, which shards do not have%s", type,
                          type == 7 ? " (data in external files)" : "");
  }
done:
  return status;
}
