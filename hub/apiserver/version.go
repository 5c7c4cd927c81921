package apiserver

import (
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/util/compatibility"
	basecompatibility "k8s.io/component-base/compatibility"
)

// kubeVersion is the version of the Kubernetes API that the libraries speak, as
// /version tells it. They would tell the tag of a build of Kubernetes, which this
// is not, and kubectl cannot read what they say instead.
type kubeVersion struct {
	basecompatibility.EffectiveVersion
}

func newKubeVersion() kubeVersion { return kubeVersion{compatibility.DefaultBuildEffectiveVersion()} }

// Info is what /version answers.
func (v kubeVersion) Info() *version.Info {
	info := v.EffectiveVersion.Info()
	info.GitVersion = "v" + info.Major + "." + info.Minor + ".0+sealane"
	info.GitCommit, info.GitTreeState, info.BuildDate = "", "", ""
	return info
}
