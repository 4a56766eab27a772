/* version.h - the one place that names kvd's version. */
#ifndef KVD_VERSION_H
#define KVD_VERSION_H
#define KVD_VERSION "0.1.0"
#endif
