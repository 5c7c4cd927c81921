// Package etcdlog keeps the etcd clients inside the Kubernetes libraries from
// writing to standard error on their own, which they do with a logger that is
// made when the program starts and that nobody can change afterwards. Every error
// that they would log they also return.
//
// It works by being initialised before them. The language says that of all
// packages whose imports are initialised the one whose path sorts first is next;
// this one imports hardly anything, and its path sorts before k8s.io.
package etcdlog

import "go.etcd.io/etcd/client/pkg/v3/logutil"

func init() {
	logutil.DefaultZapLoggerConfig.OutputPaths = nil
	logutil.DefaultZapLoggerConfig.ErrorOutputPaths = nil
}
